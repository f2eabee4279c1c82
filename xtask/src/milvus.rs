//! A Milvus Lite server of our own, on loopback, for the demo and the benches.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::cache::Scratch;
use crate::child::{Guarded, run_to_end};
use crate::command::tail;
use crate::sys;
use crate::venv::MilvusVenv;

/// How long a start, or filling a collection, may take on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);
const FILL_LIMIT: Duration = Duration::from_secs(300);

/// The running server; dropping it ends it and removes its data.
#[derive(Debug)]
pub(crate) struct Milvus {
    // Dropped first: the server ends before its data goes.
    server: Guarded,
    address: SocketAddr,
    python: PathBuf,
    client: PathBuf,
    data: Scratch,
}

impl Milvus {
    /// Starts the server and waits until it answers.
    ///
    /// # Errors
    /// When it does not start, or ends; with the last lines of its log.
    pub(crate) fn start(venv: &MilvusVenv, root: &Path) -> Result<Self> {
        let name = format!("qprof-milvus-{}", std::process::id());
        let data = Scratch::new(std::env::temp_dir().join(name))?;
        let log = data.join("server.log");
        let output = File::create(&log)?;
        let address = free_port()?;
        let server = Guarded::start(
            "Milvus Lite",
            Command::new(venv.server())
                .env("LD_LIBRARY_PATH", venv.library())
                .current_dir(data.path())
                .arg(data.join("demo.db"))
                .args([&address.to_string(), "ERROR"])
                .stdout(output.try_clone()?)
                .stderr(output),
        )?;
        let mut milvus = Self {
            server,
            address,
            python: venv.python(),
            client: root.join("tests/clients/milvus_lite.py"),
            data,
        };
        milvus.wait_until_up(&log)?;
        Ok(milvus)
    }

    fn wait_until_up(&mut self, log: &Path) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).is_err() {
            sys::check_stop()?;
            if let Some(status) = self.server.poll()? {
                bail!("Milvus Lite ended at its start ({status}):\n{}", tail(log, 20));
            }
            if Instant::now() >= deadline {
                bail!("Milvus Lite does not answer on {}:\n{}", self.address, tail(log, 20));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// The server's process.
    pub(crate) fn pid(&self) -> u32 {
        self.server.id()
    }

    /// The client program with `words` after the server's address.
    pub(crate) fn client(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(&self.client).arg(self.address.to_string()).args(words);
        command
    }

    /// Makes the collection `name` with `rows` vectors and searches it once.
    ///
    /// # Errors
    /// When the client fails.
    pub(crate) fn fill(&self, name: &str, rows: u32) -> Result<()> {
        let mut client = self.client(&["setup", name, &rows.to_string()]);
        run_to_end("the Milvus client", client.stdout(Stdio::null()), FILL_LIMIT)
            .with_context(|| format!("cannot fill the collection {name}"))
    }

    /// Whether it is alive.
    ///
    /// # Errors
    /// When it ended, with the last lines of its log.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        match self.server.poll()? {
            None => Ok(()),
            Some(status) => {
                bail!("Milvus Lite ended ({status}):\n{}", tail(&self.data.join("server.log"), 20))
            }
        }
    }
}

/// A loopback port that is free now. Another program could take it before the server does;
/// then the server's start fails and says so.
fn free_port() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free loopback port")?;
    Ok(listener.local_addr()?)
}
