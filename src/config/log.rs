//! The settings of the log.

use super::log_config::{LogConfig, LogFormat};
use super::meaning::Meaning;
use super::raw::Raw;

impl Meaning<'_> {
    pub(super) fn log(&mut self, raw: &Raw) -> LogConfig {
        let level = match raw.log.level.as_str() {
            "error" => tracing::Level::ERROR,
            "warn" => tracing::Level::WARN,
            "info" => tracing::Level::INFO,
            "debug" => tracing::Level::DEBUG,
            "trace" => tracing::Level::TRACE,
            other => {
                self.complain(
                    "log.level",
                    format!("`{other}` is no level; there are error, warn, info, debug and trace"),
                );
                tracing::Level::INFO
            }
        };
        let format = match raw.log.format.as_str() {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            other => {
                self.complain(
                    "log.format",
                    format!("`{other}` is no format; there are text and json"),
                );
                LogFormat::Text
            }
        };
        LogConfig { level, format }
    }
}
