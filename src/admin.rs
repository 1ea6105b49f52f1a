//! The admin and probes listeners: `/livez`, `/readyz`, `/metrics`. Read-only: GET and HEAD, nothing else.
