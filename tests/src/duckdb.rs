//! DuckDB in a Python process.

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value, json};

use crate::engine::Engine;

/// A process with tables in memory, columns `i`, `g`, `v`, `s`, and four threads to work on them.
#[derive(Debug)]
pub struct DuckDb {
    engine: Engine,
}

/// A statement that one connection, on one thread, executes several times.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// The statement.
    pub sql: &'a str,
    /// How often.
    pub count: usize,
    /// How: `execute`, `relation` or `many`.
    pub how: &'static str,
}

/// What came of a task.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The thread of the connection.
    pub thread: u32,
    /// Rows, over all executions.
    pub rows: u64,
    /// What the errors said.
    pub errors: Vec<String>,
}

impl<'a> Task<'a> {
    /// `count` times `connection.execute(sql).fetchall()`.
    #[must_use]
    pub const fn new(count: usize, sql: &'a str) -> Self {
        Self { sql, count, how: "execute" }
    }
}

impl DuckDb {
    /// Starts it with tables of so many row groups.
    ///
    /// # Errors
    /// When it is not installed, or does not come up.
    pub fn start(tables: &[(&str, usize)]) -> Result<Self> {
        Ok(Self { engine: Engine::start("duckdb_client.py", tables)? })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.engine.pid()
    }

    /// Whether it runs.
    #[must_use]
    pub fn alive(&mut self) -> bool {
        self.engine.alive()
    }

    /// Does the tasks all at the same time, each on a connection of its own.
    ///
    /// # Errors
    /// When the process fails; errors of statements are part of the answer.
    pub fn at_once(&mut self, tasks: &[Task<'_>]) -> Result<Vec<Answer>> {
        let tasks: Vec<Value> = tasks
            .iter()
            .map(|task| json!({"sql": task.sql, "count": task.count, "how": task.how}))
            .collect();
        let answers = self.engine.ask(&Value::from(tasks))?;
        let answers = answers.as_array().context("the answer is no list")?;
        answers.iter().map(answer).collect()
    }

    /// Does one task, which succeeds.
    ///
    /// # Errors
    /// When it does not.
    pub fn one(&mut self, task: Task<'_>) -> Result<Answer> {
        let answer = self.at_once(&[task])?.pop().context("no answer")?;
        ensure!(answer.errors.is_empty(), "{}: {:?}", task.sql, answer.errors);
        Ok(answer)
    }
}

fn answer(answer: &Value) -> Result<Answer> {
    let number =
        |key: &str| answer[key].as_u64().ok_or_else(|| anyhow!("no {key} in the answer {answer}"));
    let errors = answer["errors"].as_array().into_iter().flatten();
    Ok(Answer {
        thread: u32::try_from(number("thread")?)?,
        rows: number("rows")?,
        errors: errors.filter_map(|text| text.as_str().map(str::to_owned)).collect(),
    })
}
