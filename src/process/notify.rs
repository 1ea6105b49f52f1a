//! What systemd hears (sd_notify): ready, reloading, stopping; and the sockets it hands over.
