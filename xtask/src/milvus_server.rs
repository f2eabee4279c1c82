//! The program of a whole Milvus, the largest Go program that packages have: its functions and
//! types are read, it is not run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cache::{Cache, Step};
use crate::command::run_logged;
use crate::{host, venv};

/// Go 1.20, stripped, 118 MB.
const PACKAGE: &str = "milvus==2.3.5";
const SUM: &str = "sha256:69515a0630ce29fd10e101fa442afea8ca1387b93a456cd9bd41fdf3deb93d04";

/// Takes the program out of the package, which has it compressed: its arguments are the package and
/// where to.
const UNPACK: &str = "
import lzma, shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as package:
    with package.open('milvus/data/bin/milvus.lzma') as packed, lzma.open(packed) as program:
        with open(sys.argv[2], 'wb') as out:
            shutil.copyfileobj(program, out, 1 << 20)
";

/// Downloads the package and unpacks the program if it is not there: where it is.
///
/// # Errors
/// When there is no Python, or the package cannot be downloaded or is not what was pinned.
pub(crate) fn ensure(cache: &Cache) -> Result<PathBuf> {
    let program = cache.join("milvus-server/milvus");
    let step = Step {
        name: "milvus-server",
        key: &format!("{PACKAGE} {SUM}"),
        doing: "downloading Milvus from PyPI and unpacking its program (58 MB, about 20 s)",
        files: std::slice::from_ref(&program),
        probe: &|| false,
    };
    cache.ensure(&step, |workshop| {
        host::ensure_venv_module(cache)?;
        let environment = workshop.scratch.join("venv");
        venv::create(&environment, &workshop.log)?;
        let pins = workshop.scratch.join("pins.txt");
        fs::write(&pins, format!("{PACKAGE} --hash={SUM}\n"))?;
        let packages = workshop.scratch.join("packages");
        run_logged(
            venv::pip(&environment.join("bin/python"), "download")
                .args(["--no-deps", "--require-hashes", "--dest"])
                .arg(&packages)
                .arg("--requirement")
                .arg(&pins),
            &workshop.log,
        )?;
        let package = only_file(&packages)?;
        let unpacked = workshop.scratch.join("milvus");
        run_logged(
            Command::new("python3").args(["-c", UNPACK]).args([&package, &unpacked]),
            &workshop.log,
        )?;
        fs::create_dir_all(cache.join("milvus-server"))?;
        fs::rename(&unpacked, &program)
            .with_context(|| format!("cannot move it to {}", program.display()))
    })?;
    Ok(program)
}

fn only_file(directory: &Path) -> Result<PathBuf> {
    let first = fs::read_dir(directory)?.next();
    Ok(first.with_context(|| format!("pip has put nothing into {}", directory.display()))??.path())
}
