//! Who may ask: a bearer token, or being on this machine in trust mode; and only under a name of this machine.
//!
//! The Host check stops web pages of other origins that make a browser resolve their own name to this machine (DNS
//! rebinding). There are no cookies, so there is nothing to forge; no CORS header is ever sent.

use std::net::SocketAddr;

use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use tokio::net::TcpListener;

use super::error::{ApiError, ApiResult};
use super::listener::TlsListener;

/// The address of a client.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

impl Connected<IncomingStream<'_, TcpListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Peer {
        Peer(*stream.remote_addr())
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Peer {
        Peer(*stream.remote_addr())
    }
}

/// Decides about requests.
#[derive(Clone)]
pub struct Guard {
    token_digest: Option<ring::digest::Digest>,
    trust_loopback: bool,
    /// Where the server listens; a loopback address makes the Host check strict.
    listen: SocketAddr,
}

/// Last parts of routes that anybody may ask for.
const PUBLIC: [&str; 5] = ["/ping", "/connectors", "/connectors/{id}", "/healthz", "/readyz"];

fn digest(text: &str) -> ring::digest::Digest {
    ring::digest::digest(&ring::digest::SHA256, text.as_bytes())
}

impl Guard {
    pub fn new(token: Option<&str>, trust_loopback: bool, listen: SocketAddr) -> Guard {
        Guard {
            token_digest: token.map(digest),
            trust_loopback,
            listen,
        }
    }

    fn check(&self, peer: SocketAddr, route: Option<&str>, uri: &Uri, headers: &HeaderMap) -> ApiResult<()> {
        self.check_host(uri, headers)?;
        let is_public = route.is_some_and(|route| {
            let path = ["/api/v1", "/v1"]
                .iter()
                .find_map(|base| route.strip_prefix(base))
                .unwrap_or(route);
            PUBLIC.contains(&path)
        });
        let is_trusted = self.trust_loopback && peer.ip().to_canonical().is_loopback();
        if is_public || is_trusted || self.has_token(headers) {
            Ok(())
        } else {
            Err(ApiError::unauthorized())
        }
    }

    fn has_token(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = given
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        match (token, &self.token_digest) {
            // Digests have one length and nothing can be learned from where two of them first differ.
            (Some((_, token)), Some(expected)) => digest(token.trim()).as_ref() == expected.as_ref(),
            _ => false,
        }
    }

    fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> ApiResult<()> {
        if !self.listen.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        let given = headers
            .get(header::HOST)
            .and_then(|value| value.to_str().ok())
            .or(uri.authority().map(|a| a.as_str()));
        let host = given.map(host_without_port);
        match host {
            Some(host) if host.eq_ignore_ascii_case("localhost") => Ok(()),
            Some(host) if host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()) => Ok(()),
            _ => Err(ApiError::invalid("the Host header is not a name of this machine")
                .with_hint("Ask for http://localhost or http://127.0.0.1.")),
        }
    }
}

/// `localhost:5115`, `127.0.0.1`, `[::1]:5115`.
fn host_without_port(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').map_or(rest, |(inside, _)| inside);
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

/// The middleware.
pub async fn guard(
    State(guard): State<Guard>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map(|path| path.as_str().to_owned());
    match guard.check(peer.0, route.as_deref(), request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// Counts requests by route, not by address: ids are not labels.
pub async fn measure(request: Request, next: Next) -> Response {
    let route = match request.extensions().get::<MatchedPath>() {
        Some(path) => path.as_str().to_owned(),
        None => "none".to_owned(),
    };
    let method = request.method().as_str().to_owned();
    let started = std::time::Instant::now();
    let response = next.run(request).await;
    metrics::histogram!("laminar_rest_request_seconds", "route" => route.clone())
        .record(started.elapsed().as_secs_f64());
    let status = response.status().as_u16().to_string();
    metrics::counter!("laminar_rest_requests_total", "method" => method, "route" => route, "status" => status)
        .increment(1);
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use axum::http::HeaderValue;

    use super::*;

    fn headers(host: &str, token: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        if let Some(token) = token {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(token).unwrap());
        }
        headers
    }

    fn status(guard: &Guard, peer: &str, route: &str, host: &str, token: Option<&str>) -> u16 {
        let uri = Uri::from_static("/");
        match guard.check(peer.parse().unwrap(), Some(route), &uri, &headers(host, token)) {
            Ok(()) => 200,
            Err(error) => error.status.as_u16(),
        }
    }

    #[test]
    fn tokens_trust_and_public_routes() {
        let everywhere = Guard::new(Some("t0ken"), true, "0.0.0.0:1".parse().unwrap());
        let (near, far) = ("127.0.0.1:9", "10.0.0.1:9");
        let route = "/api/v1/pipelines";
        assert_eq!(status(&everywhere, near, route, "x", None), 200);
        assert_eq!(status(&everywhere, far, route, "x", None), 401);
        assert_eq!(status(&everywhere, far, route, "x", Some("Bearer wrong")), 401);
        assert_eq!(status(&everywhere, far, route, "x", Some("bearer t0ken")), 200);
        assert_eq!(status(&everywhere, far, "/v1/ping", "x", None), 200);
        assert_eq!(status(&everywhere, far, "/healthz", "x", None), 200);
        assert_eq!(status(&everywhere, far, "/metrics", "x", None), 401);
        let strict = Guard::new(Some("t0ken"), false, "127.0.0.1:1".parse().unwrap());
        assert_eq!(status(&strict, near, route, "localhost", None), 401);
    }

    #[test]
    fn names_of_others_are_refused_on_loopback() {
        let local = Guard::new(None, true, "127.0.0.1:1".parse().unwrap());
        for (host, expected) in [
            ("localhost:5115", 200),
            ("127.0.0.1", 200),
            ("[::1]:5115", 200),
            ("evil.example:5115", 400),
            ("127.0.0.1.evil.example", 400),
        ] {
            assert_eq!(
                status(&local, "127.0.0.1:9", "/api/v1/pipelines", host, None),
                expected,
                "{host}"
            );
        }
    }
}
