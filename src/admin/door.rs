//! Who may ask: pure, from the headers of a request.

use axum::http::{HeaderMap, Method, StatusCode, header};
use subtle::ConstantTimeEq;

/// Paths that tell no more than whether the process lives, for probes that have no token.
const OPEN: [&str; 2] = ["/healthz", "/readyz"];

/// How the admin server is reached, and what it asks for.
#[derive(Clone, Debug)]
pub(super) struct Door {
    /// Only this machine reaches it.
    pub is_loopback: bool,
    /// What requests have to bring.
    pub token: Option<String>,
}

impl Door {
    /// Why a request is not served; `None` where it is.
    pub(super) fn refuses(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Option<(StatusCode, &'static str)> {
        if OPEN.contains(&path) {
            return None;
        }
        let changes = !matches!(*method, Method::GET | Method::HEAD);
        if let Some(token) = self.token.as_ref().filter(|_| changes || !self.is_loopback)
            && !has_token(headers, token)
        {
            return Some((StatusCode::UNAUTHORIZED, "give the admin_token: Authorization: Bearer …"));
        }
        // A page of another site may make a browser send what changes something here; it cannot choose these headers.
        if changes && !self.is_from_here(headers) {
            return Some((StatusCode::FORBIDDEN, "the request's Origin or Host is another site's"));
        }
        None
    }

    fn is_from_here(&self, headers: &HeaderMap) -> bool {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let origin = headers.get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or_default());
        let same_origin = origin.is_none_or(|origin| {
            let place = origin.split_once("://").map(|(_, place)| place);
            place.is_some() && place == host
        });
        // A name that leads to this machine for the moment is not this machine's.
        same_origin && (!self.is_loopback || host.is_none_or(is_loopback_host))
    }
}

fn is_loopback_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn has_token(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let basic = || {
        use base64::Engine;
        let encoded = given.strip_prefix("Basic ")?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
        // Terraform's HTTP backend knows user and password only; the password counts.
        String::from_utf8(bytes).ok()?.split_once(':').map(|(_, password)| password.to_owned())
    };
    let given = given.strip_prefix("Bearer ").map(str::to_owned).or_else(basic).unwrap_or_default();
    given.as_bytes().ct_eq(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn door(is_loopback: bool, token: Option<&str>) -> Door {
        Door { is_loopback, token: token.map(str::to_owned) }
    }

    fn says(door: &Door, method: Method, pairs: &[(&'static str, &str)]) -> u16 {
        door.refuses(&method, "/api/stats", &headers(pairs)).map_or(200, |(status, _)| status.as_u16())
    }

    #[test]
    fn on_the_loopback_looking_is_free_and_changing_asks_for_the_token() {
        let open = door(true, None);
        assert_eq!(says(&open, Method::GET, &[("host", "localhost:7380")]), 200);
        assert_eq!(says(&open, Method::DELETE, &[("host", "127.0.0.1:7380")]), 200);
        let guarded = door(true, Some("s3cret"));
        assert_eq!(says(&guarded, Method::GET, &[]), 200);
        assert_eq!(says(&guarded, Method::DELETE, &[]), 401);
        assert_eq!(says(&guarded, Method::DELETE, &[("authorization", "Bearer s3cret")]), 200);
        assert_eq!(says(&guarded, Method::DELETE, &[("authorization", "Bearer s3cre")]), 401);
        assert_eq!(says(&guarded, Method::POST, &[("authorization", "Basic dXNlcjpzM2NyZXQ=")]), 200);
    }

    #[test]
    fn off_the_loopback_everything_asks_but_the_probes() {
        let far = door(false, Some("s3cret"));
        assert_eq!(says(&far, Method::GET, &[]), 401);
        assert_eq!(says(&far, Method::GET, &[("authorization", "Bearer s3cret")]), 200);
        for path in OPEN {
            assert!(far.refuses(&Method::GET, path, &HeaderMap::new()).is_none(), "{path}");
        }
    }

    #[test]
    fn a_page_of_another_site_changes_nothing() {
        let open = door(true, None);
        for (pairs, status) in [
            (&[("host", "localhost:7380"), ("origin", "http://localhost:7380")][..], 200),
            (&[("host", "localhost:7380"), ("origin", "http://evil.example")], 403),
            (&[("host", "localhost:7380"), ("origin", "null")], 403),
            (&[("host", "evil.example:7380"), ("origin", "http://evil.example:7380")], 403),
            (&[("host", "[::1]:7380")], 200),
            (&[("host", "127.0.0.2")], 200),
        ] {
            assert_eq!(says(&open, Method::DELETE, pairs), status, "{pairs:?}");
        }
    }
}
