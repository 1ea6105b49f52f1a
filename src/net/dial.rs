//! Dials: TCP (every resolved address in turn, under one deadline) and Unix sockets.
