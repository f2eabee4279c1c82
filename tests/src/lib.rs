//! Harness of the tests that need root, a kernel or real servers.
//!
//! Each module starts and ends one kind of thing a test needs; the tests themselves lie in
//! `tests/`, one topic a file, and their targets as source in `fixtures/`. Nothing a test starts
//! outlives it: every process dies with the test binary, and what it wrote lies under
//! `target/qprof-tests` until the next run, to be looked at after a failure.

pub mod bpftrace;
pub mod clients;
pub mod duckdb;
pub mod engine;
pub mod environment;
pub mod family;
pub mod fixture;
pub mod functions;
pub mod go_compare;
pub mod go_dwarf;
pub mod go_log;
pub mod golang;
pub mod http;
pub mod influxdb;
pub mod jaeger;
pub mod memory;
pub mod milvus_lite;
pub mod planned;
pub mod postgres;
pub mod process;
pub mod prometheus;
pub mod qprof;
pub mod restored;
pub mod served;
pub mod symbol_map;
pub mod tantivy;
pub mod timeout;
pub mod tree;
pub mod truth;
pub mod twice;
pub mod witness;
