//! Binds, listens, accepts: TCP and Unix sockets. A socket is bound at start, so that a port in use fails before readiness,
//! and listens once there is a key pair to show.
