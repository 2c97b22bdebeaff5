//! Before every call: is there a token, and does it have the right? Nothing of the request's body is read for callers
//! that are turned away.

use std::{
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::Either;
use tonic::{
    Status,
    body::Body,
    codegen::http::{HeaderMap, Request, Response, header::AUTHORIZATION},
};
use tower::{Layer, Service};

use super::{
    super::{ServiceError, layer::method},
    ReflectionAccess, Right, SecurityOptions, TokenFile,
};
use crate::telemetry::{Metrics, Rejection};

/// Longer credentials are none of ours: nothing is hashed for them.
const LONGEST: usize = 512;

/// Makes [`Authorized`].
#[derive(Clone)]
pub(in super::super) struct AuthorizeLayer {
    tokens: Option<Arc<TokenFile>>,
    reflection: ReflectionAccess,
    metrics: Metrics,
}

impl AuthorizeLayer {
    pub(in super::super) fn new(options: &SecurityOptions, metrics: Metrics) -> Self {
        Self { tokens: options.tokens.clone(), reflection: options.reflection, metrics }
    }

    fn check(&self, path: &str, headers: &HeaderMap) -> Result<(), ServiceError> {
        let Some(tokens) = &self.tokens else { return Ok(()) };
        let right = match needed(path, self.reflection) {
            Needed::Nothing => return Ok(()),
            Needed::Token => None,
            Needed::Right(right) => Some(right),
        };
        let secret = bearer(headers)?;
        let token = tokens.find(secret).ok_or(ServiceError::Unauthenticated("the token is not known here"))?;
        // So that the log says who it was.
        tracing::Span::current().record("caller", token.name.as_str());
        match right {
            Some(right) if !token.rights.contains(&right) => Err(ServiceError::PermissionDenied(right)),
            _ => Ok(()),
        }
    }
}

enum Needed {
    Nothing,
    Token,
    Right(Right),
}

fn needed(path: &str, reflection: ReflectionAccess) -> Needed {
    if path.starts_with("/grpc.health.v1.Health/") {
        return Needed::Nothing;
    }
    if path.starts_with("/grpc.reflection.") && reflection == ReflectionAccess::Public {
        return Needed::Nothing;
    }
    // What doesn't exist needs a token, too: nobody learns what there is by asking.
    method(path).and_then(Right::of).map_or(Needed::Token, Needed::Right)
}

/// The credentials of `authorization: Bearer …`. Two of them are as bad as none: which one counts would be anybody's
/// guess.
fn bearer(headers: &HeaderMap) -> Result<&[u8], ServiceError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Err(ServiceError::Unauthenticated("metadata `authorization: Bearer TOKEN` is required")),
        (Some(_), Some(_)) => return Err(ServiceError::Unauthenticated("there is more than one `authorization`")),
        (Some(value), None) => value.as_bytes(),
    };
    match value.split_at_checked(7) {
        Some((scheme, secret)) if scheme.eq_ignore_ascii_case(b"bearer ") && secret.len() <= LONGEST => Ok(secret),
        _ => Err(ServiceError::Unauthenticated("`authorization` is not `Bearer TOKEN`")),
    }
}

impl<S> Layer<S> for AuthorizeLayer {
    type Service = Authorized<S>;

    fn layer(&self, inner: S) -> Authorized<S> {
        Authorized { inner, layer: self.clone() }
    }
}

/// Answers calls itself whose token is missing, unknown or without the right, and passes on the others. Without a token
/// file it passes on all.
#[derive(Clone)]
pub(in super::super) struct Authorized<S> {
    inner: S,
    layer: AuthorizeLayer,
}

impl<S> Service<Request<Body>> for Authorized<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.layer.check(request.uri().path(), request.headers()) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(error) => {
                self.layer.metrics.rejected(match error {
                    ServiceError::PermissionDenied(_) => Rejection::PermissionDenied,
                    _ => Rejection::Unauthenticated,
                });
                Either::Right(ready(Ok(Status::from(error).into_http())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::codegen::http::HeaderValue;

    use super::*;

    #[test]
    fn one_bearer_and_nothing_else() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, HeaderValue::from_static(value));
            }
            bearer(&headers).ok().map(<[u8]>::to_vec)
        };
        assert_eq!(of(&["Bearer abc"]).unwrap(), b"abc");
        assert_eq!(of(&["bEARER abc"]).unwrap(), b"abc");
        for wrong in [&["Basic abc"][..], &["Bearer"], &["abc"], &[""], &[], &["Bearer a", "Bearer a"]] {
            assert!(of(wrong).is_none(), "{wrong:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {}", "x".repeat(LONGEST + 1))).unwrap());
        assert!(bearer(&headers).is_err());
    }

    #[test]
    fn only_health_needs_nothing() {
        let needs = |path: &str| !matches!(needed(path, ReflectionAccess::Token), Needed::Nothing);
        assert!(!needs("/grpc.health.v1.Health/Check") && !needs("/grpc.health.v1.Health/Watch"));
        for path in [
            "/sesrec.v1.RankingService/Rank",
            "/sesrec.v1.RankingService/GetModelInfo",
            "/sesrec.v1.RankingService/Other",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            "/grpc.health.v1.Healthy/Check",
            "/",
            "",
        ] {
            assert!(needs(path), "{path}");
        }
        let open = needed("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", ReflectionAccess::Public);
        assert!(matches!(open, Needed::Nothing));
    }
}
