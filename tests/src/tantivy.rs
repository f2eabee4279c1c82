//! tantivy in a Python process.

use anyhow::{Result, anyhow};
use serde_json::json;

use crate::engine::Engine;

/// A process with indexes in memory.
#[derive(Debug)]
pub struct Tantivy {
    engine: Engine,
}

/// What came of some searches.
#[derive(Clone, Debug)]
pub struct Answer {
    /// How many segments the index has, as the searcher says.
    pub segments: u64,
    /// Documents found, over all searches.
    pub hits: u64,
    /// What the errors said.
    pub errors: Vec<String>,
}

impl Tantivy {
    /// Starts it with indexes of so many segments.
    ///
    /// # Errors
    /// When it is not installed, or does not come up.
    pub fn start(indexes: &[(&str, usize)]) -> Result<Self> {
        Ok(Self { engine: Engine::start("tantivy_client.py", indexes)? })
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

    /// `count` times: parses the query, and does with it what `how` says: `search`, `lenient` (parses
    /// it again, and orders by a column) or `aggregate`.
    ///
    /// # Errors
    /// When the process fails; queries that are refused are part of the answer.
    pub fn ask(&mut self, index: &str, count: usize, query: &str, how: &str) -> Result<Answer> {
        let task = json!({"index": index, "count": count, "query": query, "how": how});
        let answer = self.engine.ask(&task)?;
        let number = |key: &str| {
            answer[key].as_u64().ok_or_else(|| anyhow!("no {key} in the answer {answer}"))
        };
        let errors = answer["errors"].as_array().into_iter().flatten();
        Ok(Answer {
            segments: number("segments")?,
            hits: number("hits")?,
            errors: errors.filter_map(|text| text.as_str().map(str::to_owned)).collect(),
        })
    }
}
