//! What the requests of one peer's connection share: made by the first request of an epoch or after a rest, which verifies the
//! peer again.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::resources::IngressResources;
use crate::dataplane::exchange::access::{AccessLineTemplate, ClientFields, RequestContext};
use crate::dataplane::exchange::pool::ConnectionPool;
use crate::http::error::RequestError as Error;
use crate::http::fields::{BackendFields, StripList};
use crate::http::target;
use crate::snapshot::ingress::IngressSettings;
use crate::snapshot::{IngressSnapshot, Side};
use crate::tls::ClientAuth;
use crate::trust::{Peer, PeerRole, PresentedChain};

/// What the requests of one connection share.
pub(super) struct IngressView {
    pub(super) ingress: Arc<IngressSnapshot>,
    pub(super) peer: Option<Arc<Peer>>,
    pub(super) for_backend: BackendFields,
    pub(super) strip: Rc<StripList>,
    pub(super) pool: Rc<ConnectionPool>,
    pub(super) access: Rc<AccessLineTemplate>,
    pub(super) host: target::HostCache,
}

impl IngressView {
    /// For the connection of this number, from this address, with this chain.
    pub(super) fn new(
        resources: &IngressResources,
        request_context: &Rc<RequestContext>,
        ingress: Arc<IngressSnapshot>,
        (connection, from, chain): (u64, Option<SocketAddr>, &PresentedChain),
    ) -> Result<Self, Error> {
        let settings = &ingress.settings;
        let peer = if chain.is_empty() && settings.client_auth == ClientAuth::Optional {
            None
        } else {
            let verified = ingress.trust.verify_presented(chain, &PeerRole::Client, resources.context.clock().now())?;
            Some(Peer::new(verified, &ingress.partners))
        };
        let (side, listener, known) = (Side::Ingress, &settings.name, peer.as_deref());
        let asker = ClientFields { side, listener, connection, from, peer: known };
        let fields = BackendFields::new(known, from.map(|from| from.ip()), settings.identity);
        Ok(Self {
            for_backend: fields.with_continuation(settings.forwarded_from.iter().any(|matcher| matcher.matches(known))),
            strip: Rc::new(strip_list(settings)),
            pool: resources.backend(&settings.backend),
            access: AccessLineTemplate::new(request_context, settings.log_access, &asker),
            peer,
            ingress,
            host: target::HostCache::default(),
        })
    }

    /// Logs which identity fields are left out of the requests of the connection of this number.
    pub(super) fn report_left_out(&self, connection: u64) {
        for (field, limit) in self.for_backend.left_out() {
            tracing::warn!(
                target: "proxy",
                listener = &*self.ingress.settings.name,
                connection,
                field,
                limit,
                "this peer's identity is too long for the field, which is left out of its requests: the backend must not \
                 take its absence for an anonymous peer"
            );
        }
    }
}

/// What is stripped besides the fixed names: where rules name paths or methods, also the fields by which some
/// frameworks let a request override the one in its first line.
fn strip_list(settings: &IngressSettings) -> StripList {
    let mut names = settings.also_strip.clone();
    let mut also = |more: &[&str]| names.extend(more.iter().map(|name| (*name).to_owned()));
    if settings.rules.name_paths() {
        also(&["x-original-url", "x-rewrite-url", "x-original-uri"]);
    }
    if settings.rules.rules.iter().any(|rule| !rule.methods.is_empty()) {
        also(&["x-http-method-override", "x-http-method", "x-method-override"]);
    }
    StripList::new(&names)
}
