//! Starts the admin and the probes listener. Probes are answered on the control thread, whose life they show. The page and the
//! API are made on a thread of their own, so that a view that takes long delays no rotation. It has the control thread's lower priority,
//! from which it is started: however many views are asked for, traffic goes first.

use std::io;
use std::thread;

use super::listening::AdminSockets;
use crate::admin::{self, AdminListenerKind};
use crate::net::BoundSocket;
use crate::views::RuntimeViews;

/// Serves both until the process is over. Call on the control thread's runtime.
pub(super) fn start_admin(sockets: AdminSockets, views: &RuntimeViews) {
    for (bound, kind) in sockets {
        let Some(bound) = bound else { continue };
        let serving = serve_listener(bound, kind, views.clone());
        match kind {
            AdminListenerKind::Probes => drop(tokio::spawn(serving)),
            AdminListenerKind::Admin => {
                if let Err(error) = run_apart(serving) {
                    tracing::error!(target: "admin", %error, "the admin thread cannot start");
                }
            }
        }
    }
}

fn run_apart(serving: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("admin".to_owned()).spawn(move || runtime.block_on(serving)).map(drop)
}

async fn serve_listener(bound: BoundSocket, kind: AdminListenerKind, views: RuntimeViews) {
    if let Err(error) = admin::serve(bound, kind, views).await {
        tracing::error!(target: "admin", %error, "admin listener failed");
    }
}
