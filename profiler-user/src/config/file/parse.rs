//! From the text of a configuration file to checked settings.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::error::{Diagnostic, MapError, Source};
use super::super::load::{names_a_file, read};
use super::super::raw::At;
use super::raw::{
    OneOrMany, RawCompression, RawHeaders, RawOtlp, RawOutput, RawPrint, RawProtocol, RawSettings,
    RawTarget,
};
use super::{
    OtlpSettings, OutputSettings, Print, Protocol, Settings, SettingsError, TargetSettings,
};
use crate::units;

type Checked<T> = Result<T, SettingsError>;

/// Reads and checks a configuration file.
///
/// # Errors
///
/// [`SettingsError::Unreadable`], and those of [`parse_settings`].
pub fn load_settings(path: &Path) -> Result<Settings, SettingsError> {
    let text = read(path)
        .map_err(|error| SettingsError::Unreadable { path: path.to_path_buf(), error })?;
    parse_settings(&text, path)
}

/// Checks the text of a configuration file; relative paths in it begin at the folder of `path`.
///
/// # Errors
///
/// [`SettingsError::Invalid`] names the place of the first thing that is wrong and the fix.
pub fn parse_settings(text: &str, path: &Path) -> Result<Settings, SettingsError> {
    let file = File {
        source: Source::of_file(text, path),
        folder: path.parent().unwrap_or(Path::new("")),
    };
    file.settings().map_err(|mut error| {
        if let SettingsError::Invalid(wrong) = &mut error {
            hide_headers(text, wrong);
        }
        error
    })
}

struct File<'a> {
    source: Source<'a>,
    folder: &'a Path,
}

impl File<'_> {
    fn settings(&self) -> Checked<Settings> {
        let raw: RawSettings =
            toml::from_str(self.source.text).map_err(|error| self.toml_error(&error))?;
        let RawSettings {
            maps,
            maps_dir,
            service,
            ring,
            max_functions,
            grace,
            duration,
            budget,
            target,
            otlp,
            output,
        } = raw;
        let named = maps.as_ref().map_or_else(|| Ok(Vec::new()), |at| self.several(at))?;
        let folders = maps_dir.as_ref().map_or_else(|| Ok(Vec::new()), |at| self.several(at))?;
        Ok(Settings {
            target: self.target(&target)?,
            maps: named
                .into_iter()
                .map(|(map, span)| self.map(map, span))
                .collect::<Checked<_>>()?,
            map_dirs: folders
                .into_iter()
                .map(|(folder, span)| self.path(folder, span))
                .collect::<Checked<_>>()?,
            service: self.optional(service.as_ref(), |at| self.line(at, "the service's name"))?,
            ring: self.optional(ring.as_ref(), |at| self.unit(at, units::size))?,
            max_functions: self.optional(max_functions.as_ref(), |at| self.count(at))?,
            grace: self.time(grace.as_ref())?,
            duration: self.time(duration.as_ref())?,
            budget: self.optional(budget.as_ref(), |at| self.unit(at, units::budget))?,
            otlp: otlp.map(|otlp| self.otlp(otlp)).transpose()?,
            output: self.output(&output)?,
        })
    }

    fn target(&self, raw: &RawTarget) -> Checked<TargetSettings> {
        let RawTarget { pid, exe, children, follow } = raw;
        if let (Some(_), Some(exe)) = (pid, exe) {
            return Err(self.error(
                exe.span(),
                "the target is named in two ways: by `pid` and by `exe`",
                "keep one of the two",
            ));
        }
        if let (Some(_), Some(follow)) = (pid, follow)
            && *follow.get()
        {
            return Err(self.error(
                follow.span(),
                "a process that is named by `pid` cannot be followed",
                "a restarted server has another pid: name it by `exe`, or leave `follow` out",
            ));
        }
        let pids = match pid {
            None => Vec::new(),
            Some(at) => self
                .several(at)?
                .into_iter()
                .map(|(pid, span)| {
                    u32::try_from(*pid).ok().filter(|pid| *pid > 0).ok_or_else(|| {
                        self.error(span, format!("{pid} is no process id"), "write one from 1")
                    })
                })
                .collect::<Checked<_>>()?,
        };
        let exe = self.optional(exe.as_ref(), |at| {
            self.source.glob(at).map_err(|error| self.of_map(error, at.span()))
        })?;
        Ok(TargetSettings {
            pids,
            exe,
            children: *children,
            follow: follow.as_ref().map(|follow| *follow.get()),
        })
    }

    fn otlp(&self, raw: RawOtlp) -> Checked<OtlpSettings> {
        let RawOtlp {
            endpoint,
            protocol,
            headers,
            compression,
            batch_size,
            batch_delay,
            queue_size,
            timeout,
            request_timeout,
        } = raw;
        let settings = OtlpSettings {
            endpoint: self.optional(endpoint.as_ref(), |at| self.line(at, "the endpoint"))?,
            protocol: protocol.map(|protocol| match protocol {
                RawProtocol::Grpc => Protocol::Grpc,
                RawProtocol::HttpProtobuf => Protocol::HttpProtobuf,
            }),
            headers: headers.map(|headers| self.headers(headers)).transpose()?,
            gzip: compression.map(|compression| matches!(compression, RawCompression::Gzip)),
            batch_size: self.optional(batch_size.as_ref(), |at| self.count(at))?,
            batch_delay: self.time(batch_delay.as_ref())?,
            queue_size: self.optional(queue_size.as_ref(), |at| self.count(at))?,
            timeout: self.time(timeout.as_ref())?,
            request_timeout: self.time(request_timeout.as_ref())?,
        };
        if let (Some(batch), Some(queue), Some(at)) =
            (settings.batch_size, settings.queue_size, batch_size)
            && batch > queue
        {
            return Err(self.error(
                at.span(),
                format!("a batch of {batch} cannot come out of a queue of {queue}"),
                "lower `batch_size`, or raise `queue_size`",
            ));
        }
        Ok(settings)
    }

    fn headers(&self, RawHeaders(raw): RawHeaders) -> Checked<Vec<(String, String)>> {
        raw.into_iter()
            .map(|(name, value)| {
                let legal = reqwest::header::HeaderName::try_from(&name).is_ok()
                    && reqwest::header::HeaderValue::try_from(value.get()).is_ok();
                if legal {
                    return Ok((name.to_ascii_lowercase(), value.get().clone()));
                }
                Err(self.error(
                    value.span(),
                    format!("`{name}` and its value make no header"),
                    "a name is letters, digits and `-`; a value is one line, as it is sent (not \
                     percent-encoded)",
                ))
            })
            .collect()
    }

    fn output(&self, raw: &RawOutput) -> Checked<OutputSettings> {
        let RawOutput { print, file, summary_json, record, slow, min_span, sample } = raw;
        let path = |at: &Option<At<String>>| {
            self.optional(at.as_ref(), |at| self.path(at.get(), at.span()))
        };
        let sample = self.optional(sample.as_ref(), |at| {
            let share = *at.get();
            if (0.0..=1.0).contains(&share) {
                return Ok(share);
            }
            let help = "write 0.1 to keep a tenth of the traces, 1 to keep all";
            Err(self.error(at.span(), format!("{share} is no share: it is from 0 to 1"), help))
        })?;
        Ok(OutputSettings {
            print: print.map(|print| match print {
                RawPrint::Summary => Print::Summary,
                RawPrint::Tree => Print::Tree,
                RawPrint::Json => Print::Json,
                RawPrint::None => Print::Nothing,
            }),
            file: path(file)?,
            summary_json: path(summary_json)?,
            record: path(record)?,
            slow: self.time(slow.as_ref())?,
            min_span: self.time(min_span.as_ref())?,
            sample,
        })
    }

    /// A map as `-m` takes it; the path of a file from here.
    fn map(&self, map: &str, span: Range<usize>) -> Checked<String> {
        Ok(if names_a_file(map) {
            let path = self.path(map, span)?;
            // A file beside this one must not be taken for a name.
            if path.parent() == Some(Path::new("")) { Path::new(".").join(path) } else { path }
                .display()
                .to_string()
        } else if map.trim().is_empty() {
            return Err(self.error(span, "this names no symbol map", "`qprof maps` lists them"));
        } else {
            map.to_owned()
        })
    }

    fn path(&self, path: &str, span: Range<usize>) -> Checked<PathBuf> {
        if path.trim().is_empty() || path.contains('\0') {
            return Err(self.error(span, "this is no path", "write one, or leave the key out"));
        }
        Ok(self.folder.join(path))
    }

    fn line(&self, at: &At<String>, what: &str) -> Checked<String> {
        self.source.line_of_text(at, what).map_err(|error| self.of_map(error, at.span()))
    }

    fn time(&self, at: Option<&At<String>>) -> Checked<Option<Duration>> {
        self.optional(at, |at| self.unit(at, units::duration))
    }

    fn unit<T>(&self, at: &At<String>, parse: impl Fn(&str) -> Result<T, String>) -> Checked<T> {
        parse(at.get()).map_err(|why| self.error(at.span(), why, ""))
    }

    fn count(&self, at: &At<i64>) -> Checked<usize> {
        usize::try_from(*at.get()).ok().filter(|count| *count > 0).ok_or_else(|| {
            self.error(at.span(), format!("{} is too few", at.get()), "at least 1 is needed")
        })
    }

    /// The values of a list, or the only one, with their places.
    fn several<'v, T>(&self, at: &'v At<OneOrMany<T>>) -> Checked<Vec<(&'v T, Range<usize>)>> {
        match at.get() {
            OneOrMany::One(one) => Ok(vec![(one, at.span())]),
            OneOrMany::Many(many) if many.is_empty() => {
                Err(self.error(at.span(), "the list is empty", "name one, or leave the key out"))
            }
            OneOrMany::Many(many) => Ok(many.iter().map(|one| (one.get(), one.span())).collect()),
        }
    }

    #[expect(clippy::unused_self, reason = "reads like the other fields' readers")]
    fn optional<R, T>(
        &self,
        at: Option<&At<R>>,
        read: impl FnOnce(&At<R>) -> Checked<T>,
    ) -> Checked<Option<T>> {
        at.map(read).transpose()
    }

    fn error(
        &self,
        span: Range<usize>,
        problem: impl Into<String>,
        help: impl Into<String>,
    ) -> SettingsError {
        SettingsError::Invalid(Box::new(self.source.diagnostic(span, problem, help)))
    }

    /// What the rules that are shared with symbol maps found.
    fn of_map(&self, error: MapError, span: Range<usize>) -> SettingsError {
        match error {
            MapError::Invalid(diagnostic) => SettingsError::Invalid(diagnostic),
            other => self.error(span, other.to_string(), ""),
        }
    }

    /// Wrong syntax, types, or key names: found by the TOML reader, put in our words.
    fn toml_error(&self, error: &toml::de::Error) -> SettingsError {
        let span = error.span().unwrap_or(0..0);
        let message = error.message();
        if let Some(diagnostic) = self.source.unknown(error) {
            return SettingsError::Invalid(Box::new(diagnostic));
        }
        let help = if message.starts_with("invalid type") && message.ends_with("expected a string")
        {
            "write it in quotes, a time or a size with its unit: \"30s\", \"8MiB\""
        } else if message.starts_with("invalid type: string") && message.ends_with("expected i64") {
            "write the number without quotes"
        } else if message.starts_with("invalid type: string") && message.ends_with("f64") {
            "write a number without quotes: 0.1"
        } else {
            ""
        };
        if let Some((problem, table)) = message.split_once("expected struct Raw") {
            let problem = format!("{problem}expected a table: `[{}]`", table.to_ascii_lowercase());
            return self.error(span, problem, "");
        }
        self.error(span, message.lines().next().unwrap_or("this is no TOML"), help)
    }
}

/// Makes the values on the shown line unreadable if they may be headers'.
fn hide_headers(text: &str, wrong: &mut Diagnostic) {
    let above = || text.lines().take(wrong.line.saturating_sub(1));
    let table = above().filter(|line| line.trim_start().starts_with('[')).last();
    let of_headers = wrong.text.contains("headers")
        || table.is_some_and(|table| table.contains("headers"))
        || inside_inline_headers(above());
    if of_headers {
        let mut quote = None;
        wrong.text = wrong
            .text
            .chars()
            .map(|character| match quote {
                Some(open) if character == open => {
                    quote = None;
                    character
                }
                Some(_) => '*',
                None => {
                    quote = matches!(character, '"' | '\'').then_some(character);
                    character
                }
            })
            .collect();
    }
}

/// Whether `headers = {` was begun above and has not ended.
fn inside_inline_headers<'a>(above: impl Iterator<Item = &'a str>) -> bool {
    above.fold(false, |inside, line| {
        (inside || line.trim_start().starts_with("headers"))
            && !line.contains('}')
            && (inside || line.contains('{'))
    })
}
