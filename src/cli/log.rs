//! The log of the server.

use std::cell::RefCell;
use std::fmt::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use larder::app::SDK_LOG_TARGET;
use larder::config::{LogConfig, LogFormat};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Logs to standard error from here on.
pub fn start(config: &LogConfig) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.filter)
        .map_err(|error| anyhow::anyhow!("[log] filter: {error}"))?;
    // Where no place has credentials, the SDK says so of each in its own types; the error of the call says it in words.
    let filter = match config.filter.contains(SDK_LOG_TARGET) {
        true => filter,
        false => filter.add_directive(format!("{SDK_LOG_TARGET}=error").parse()?),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.format {
        LogFormat::Text if std::io::IsTerminal::is_terminal(&std::io::stderr()) => builder.with_ansi(true).init(),
        LogFormat::Text => builder.event_format(Plain).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

/// The usual text format without colours, at a third of the cost: with request lines there is one for each request.
struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::with_capacity(512);
        push_time(&mut line);
        let meta = event.metadata();
        write!(line, " {:>5} ", meta.level().as_str())?;
        line.push_str(meta.target());
        line.push(':');
        event.record(&mut LogFields(&mut line));
        line.push('\n');
        writer.write_str(&line)
    }
}

/// Appends the time: `2026-01-02T03:04:05.678901Z`.
fn push_time(line: &mut String) {
    thread_local! {
        /// The second that was printed last, and its text.
        static SECOND: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    SECOND.with_borrow_mut(|(second, text)| {
        if *second != now.as_secs() {
            let time = jiff::Timestamp::from_second(now.as_secs() as i64).unwrap_or_default();
            (*second, *text) = (now.as_secs(), time.strftime("%Y-%m-%dT%H:%M:%S").to_string());
        }
        line.push_str(text);
    });
    let micros = now.subsec_micros();
    line.push('.');
    (0..6).rev().for_each(|place| line.push(char::from(b'0' + (micros / 10_u32.pow(place) % 10) as u8)));
    line.push('Z');
}

/// Appends each field as ` name=value`; the message stands by itself.
struct LogFields<'a>(&'a mut String);

impl LogFields<'_> {
    fn name(&mut self, field: &Field) {
        self.0.push(' ');
        if field.name() != "message" {
            self.0.push_str(field.name());
            self.0.push('=');
        }
    }
}

impl Visit for LogFields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.name(field);
        let begin = self.0.len();
        // To a `String`, which takes all.
        let _ = write!(self.0, "{value:?}");
        // A client must not be able to begin a line of its own, nor to steer the terminal of who reads.
        if !self.0.as_bytes()[begin..].iter().all(|byte| matches!(byte, b' '..=b'~')) {
            let value = self.0.split_off(begin);
            value.chars().for_each(|char| match char {
                ' '..='~' => self.0.push(char),
                _ => self.0.extend(char.escape_debug()),
            });
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        // A client must not be able to begin a line of its own. All bytes are looked at, many at once.
        let is_plain = |byte| matches!(byte, b' '..=b'~') & !matches!(byte, b'"' | b'\\');
        if !value.bytes().fold(true, |plain, byte| plain & is_plain(byte)) {
            return self.record_debug(field, &value);
        }
        self.name(field);
        self.0.push('"');
        self.0.push_str(value);
        self.0.push('"');
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.name(field);
        let (mut digits, mut at, mut left) = ([0; 20], 20, value);
        loop {
            at -= 1;
            digits[at] = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                break;
            }
        }
        self.0.push_str(std::str::from_utf8(&digits[at..]).unwrap_or_default());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.name(field);
        self.0.push_str(if value { "true" } else { "false" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_shown_as_it_is_stays_on_its_line_too() {
        let written = Written::default();
        let to = written.clone();
        let plain = tracing_subscriber::fmt().event_format(Plain).with_writer(move || to.clone()).finish();
        tracing::subscriber::with_default(plain, || {
            tracing::info!(who = %"a)\n2026-11-30T00:00:00Z  INFO larder: \u{1b}[31m\u{2028}\u{202e}é", "write");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let line = &text[27..];
        assert!(
            line.ends_with("who=a)\\n2026-11-30T00:00:00Z  INFO larder: \\u{1b}[31m\\u{2028}\\u{202e}é\n"),
            "{line}"
        );
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn a_line_is_one_line_whatever_a_client_sends() {
        let (written, usual) = (Written::default(), Written::default());
        let log = || {
            tracing::info!(
                path = "/v2/a",
                status = 200_u16,
                bytes = u64::MAX,
                complete = true,
                zero = 0_u64,
                "request"
            );
            tracing::warn!(path = "a\n2026-01-02T03:04:05.678901Z  INFO \"\\é", error = %"x y", "odd");
        };
        let to = written.clone();
        let plain = tracing_subscriber::fmt().event_format(Plain).with_writer(move || to.clone()).finish();
        tracing::subscriber::with_default(plain, log);
        let to = usual.clone();
        let full = tracing_subscriber::fmt().with_ansi(false).with_writer(move || to.clone()).finish();
        tracing::subscriber::with_default(full, log);
        let text = |written: Written| String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        // But for the time, they are the same.
        let behind_time = |text: String| text.lines().map(|line| line[27..].to_string()).collect::<Vec<_>>();
        let (plain, full) = (text(written), text(usual));
        assert!(plain.split('Z').next().unwrap().parse::<jiff::civil::DateTime>().is_ok(), "{plain}");
        assert_eq!(behind_time(plain), behind_time(full));
    }
}
