//! The load generator of the benchmark, and the server behind the proxy that is measured. One thread each.
//!
//! What was measured is printed as lines of JSON. Which proxies run, and what is made of the figures, is left to `bench/run`,
//! `bench/scale` and `bench/instructions`.

mod cpu;
mod dial;
mod handshakes;
mod http1;
mod lane;
mod options;
mod pace;
mod pki;
mod serve;
mod tally;
mod work;

use options::Options;

/// Any error: it ends the command, or is counted.
pub(crate) type LoadError = Box<dyn std::error::Error + Send + Sync>;

const USAGE: &str = "sidekey-load COMMAND [--OPTION VALUE]…

  certificates  --certs DIR             writes root, issuer, server, client and stranger
  server-pairs  --certs DIR --out DIR --count N     N pairs of the server, each a second newer than the one before
  keyrings      --certs DIR --out DIR --count N     N folders, each with a pair of its own and the root
  serve         --port P [--certs DIR [--admit-all]]  answers: / with 128 bytes, /N with N bytes, /head with the request's head;
                --admit-all: asks for no certificate, which `bench/run` must notice
  requests      over connections that stay open, as fast as they are answered, or planned ahead with --rate
  handshakes    each request over a connection of its own, as fast as they are answered, or planned ahead with --rate, then over
                --connections at most at once; --resume: with the last ticket, --resumed PERCENT: so many of a hundred;
                --distinct: each another client; --pairs DIR: the clients of 0.pem, 1.pem and so on in turns, each of which is a
                chain and its key, and which ask for the server --names A,B,… in turns
  hold          opens connections, a request on each, and holds them until a line comes; then one more request on each
  try           one request, and what was negotiated

  --port P  --certs DIR (none: plain text)  --pair client|stranger|none  --protocol h1|h2  --connections N  --streams N
  --download BYTES  --upload BYTES  --path PATH  --rate PER_SECOND  --warm SECONDS  --seconds SECONDS  --count N
  --proxy PID,…  --backend PID,… (their CPU time is read)  --slice MILLISECONDS (latency in slices)
  --gate (prints how many connections are open, and waits for a line; prints when it begins to measure)";

fn main() -> Result<(), LoadError> {
    let mut arguments = std::env::args().skip(1);
    let Some(command) = arguments.next() else { return Err(USAGE.into()) };
    let options = Options::read(arguments).map_err(|error| format!("{error}\n\n{USAGE}"))?;
    // Fails where one is there already, which is as good.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = tokio::task::LocalSet::new().block_on(&runtime, run_command(&command, &options));
    // A line that is waited for on standard input must not hold up the end.
    runtime.shutdown_background();
    done
}

async fn run_command(command: &str, options: &Options) -> Result<(), LoadError> {
    match command {
        "certificates" => pki::write_certificates(&options.folder("certs")?),
        "server-pairs" => pki::write_server_pairs(options),
        "keyrings" => pki::write_keyrings(options),
        "serve" => serve::serve(options).await,
        "requests" => work::run_requests(options).await,
        "handshakes" => handshakes::run_handshakes(options).await,
        "hold" => work::hold_connections(options).await,
        "try" => work::try_request(options).await,
        _ => Err(USAGE.into()),
    }
}
