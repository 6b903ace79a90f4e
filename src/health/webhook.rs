//! Tells a webhook of alerts: a POST of one JSON object.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Alert, Reason, Report};

/// How long one attempt may take.
const TRY_MAX: Duration = Duration::from_secs(10);
/// So much of an answer is read.
const ANSWER_MAX: u64 = 4096;

/// Where alerts go: `http://host[:port]/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// The whole address.
    pub url: String,
    place: String,
    path: String,
}

impl Webhook {
    /// Reads an address; what is wrong with it otherwise.
    pub fn parse(url: &str) -> Result<Webhook, &'static str> {
        let Some(rest) = url.strip_prefix("http://") else {
            return Err("http://host[:port]/path, of a relay on this machine where the service itself wants https");
        };
        let (place, path) =
            rest.split_once('/').map_or((rest, String::new()), |(place, path)| (place, path.to_owned()));
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if place.is_empty() || place.contains('@') || !is_plain(place) || !is_plain(&path) {
            return Err("http://host[:port]/path, without user, spaces or letters beyond ASCII");
        }
        Ok(Webhook { url: url.to_owned(), place: place.to_owned(), path: format!("/{path}") })
    }

    /// Sends it; why that failed otherwise.
    pub async fn send(&self, body: &Value) -> Result<(), String> {
        match tokio::time::timeout(TRY_MAX, self.post(&body.to_string())).await {
            Ok(Ok(status)) if (200..300).contains(&status) => Ok(()),
            Ok(Ok(status)) => Err(format!("it answered {status}")),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("it took longer than {} s", TRY_MAX.as_secs())),
        }
    }

    async fn post(&self, body: &str) -> std::io::Result<u16> {
        let has_port = self.place.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = if has_port { self.place.clone() } else { format!("{}:80", self.place) };
        let mut stream = TcpStream::connect(address).await?;
        let Webhook { place, path, .. } = self;
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: {place}\r\ncontent-type: application/json\r\nuser-agent: lockgate/{}\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            env!("CARGO_PKG_VERSION"),
            body.len(),
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_MAX).read_to_end(&mut answer).await?;
        let status = std::str::from_utf8(answer.get(9..12).unwrap_or_default()).ok().and_then(|text| text.parse().ok());
        status.ok_or_else(|| std::io::Error::other("its answer is no HTTP"))
    }
}

/// An alert as the webhook is told.
pub fn told(alert: &Alert, node: &str, at_ms: u64) -> Value {
    let Report { status, score, reasons, .. } = &alert.report;
    let says = reasons.first().map_or("all is well again", |reason| &reason.says);
    json!({
        "alert": status.name(),
        "before": alert.before.name(),
        "node": node,
        "at_ms": at_ms,
        "health_score": score,
        "reasons": reasons.iter().map(reason).collect::<Vec<_>>(),
        // What chats show of a message.
        "text": format!("Lockgate {node}: {} ({score} of 100). {says}", status.name()),
    })
}

/// A reason as JSON.
pub fn reason(Reason { code, costs, says }: &Reason) -> Value {
    json!({ "code": code, "costs": costs, "says": says })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_what_would_break_a_request_is_refused() {
        let webhook = Webhook::parse("http://alerts.example:8080/hook?x=1").expect("an address");
        assert_eq!((webhook.place.as_str(), webhook.path.as_str()), ("alerts.example:8080", "/hook?x=1"));
        assert_eq!(Webhook::parse("http://alerts.example").expect("an address").path, "/");
        for wrong in ["", "https://x/", "http://", "http:///x", "http://u:p@x/", "http://x/a b", "http://x/\r\nhost: y"]
        {
            assert!(Webhook::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
