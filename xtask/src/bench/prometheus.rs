//! A Prometheus of our own, on loopback, with six blocks.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::cache::Scratch;
use crate::child::{Guarded, TICK};
use crate::command::{self, tail};
use crate::sys;

const START_LIMIT: Duration = Duration::from_secs(60);

/// The running server; dropping it ends it and removes its data.
#[derive(Debug)]
pub(super) struct Prometheus {
    // Dropped first: the server ends before its data goes.
    server: Guarded,
    address: SocketAddr,
    client: PathBuf,
    files: Scratch,
}

impl Prometheus {
    /// Starts the server and waits until it answers. `package`: where Debian's is unpacked; `root`:
    /// the checkout.
    ///
    /// # Errors
    /// When it does not start, or ends; with the last lines of its log.
    pub(super) fn start(package: &Path, root: &Path) -> Result<Self> {
        let name = format!("qprof-prometheus-{}", std::process::id());
        let files = Scratch::new(std::env::temp_dir().join(name))?;
        let client = root.join("xtask/bench/prometheus_load.py");
        let samples = files.join("samples.om");
        command::run_logged(Command::new("python3").arg(&client).arg("samples"), &samples)?;
        let programs = package.join("usr/bin");
        let data = files.join("data");
        command::run_logged(
            Command::new(programs.join("promtool"))
                .args(["tsdb", "create-blocks-from", "openmetrics"])
                .args([&samples, &data]),
            &files.join("promtool.log"),
        )?;

        let config = files.join("prometheus.yml");
        std::fs::write(&config, "global: {}\n")?;
        let output = File::create(files.join("server.log"))?;
        let address = free_port()?;
        let server = Guarded::start(
            "Prometheus",
            Command::new(programs.join("prometheus"))
                .arg(format!("--config.file={}", config.display()))
                .arg(format!("--storage.tsdb.path={}", data.display()))
                .arg(format!("--web.listen-address={address}"))
                // So that blocks stay as they are: they would be made into larger ones.
                .args(["--storage.tsdb.min-block-duration=2h"])
                .args(["--storage.tsdb.max-block-duration=2h"])
                .args(["--storage.tsdb.retention.time=100y"])
                .current_dir(files.path())
                .stdout(output.try_clone()?)
                .stderr(Stdio::from(output)),
        )?;
        let mut prometheus = Self { server, address, client, files };
        prometheus.wait_until_up()?;
        Ok(prometheus)
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let log = self.files.join("server.log");
        let deadline = Instant::now() + START_LIMIT;
        // It listens before it has read its data, and then says so.
        while TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).is_err()
            || !std::fs::read_to_string(&log)?.contains("Server is ready")
        {
            sys::check_stop()?;
            if let Some(status) = self.server.poll()? {
                bail!("Prometheus ended at its start ({status}):\n{}", tail(&log, 20));
            }
            if Instant::now() >= deadline {
                bail!("Prometheus does not answer on {}:\n{}", self.address, tail(&log, 20));
            }
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    /// The server's process.
    pub(super) fn pid(&self) -> u32 {
        self.server.id()
    }

    /// The client, which sends range queries over all blocks.
    pub(super) fn client(&self) -> Command {
        let mut command = Command::new("python3");
        command.arg(&self.client).arg("ask").arg(self.address.to_string());
        command
    }
}

/// A loopback port that is free now. Another program could take it before the server does; then the
/// server's start fails and says so.
fn free_port() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free loopback port")?;
    Ok(listener.local_addr()?)
}
