//! PyJWT, which is not ours, makes tokens that we verify, and verifies ours.

use http::StatusCode;
use serde_json::{Map, Value};

use super::{AUDIENCE, Scene, key_set};
use crate::command::{output, sidekey, text};
use crate::support::foreign;
use crate::support::sidecar::folder;

/// Tokens that PyJWT makes: a name, what it is made with, and whether it is good.
const THEIRS: &str = r#"
import sys, json, time, base64, hmac, hashlib, jwt
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
key = load_pem_private_key(open('signer.key', 'rb').read(), None)
other = load_pem_private_key(open('other.key', 'rb').read(), None)
certificate = x509.load_pem_x509_certificate(open('signer.crt', 'rb').read())
peer = x509.load_pem_x509_certificate(open('acme.crt', 'rb').read())
b64 = lambda data: base64.urlsafe_b64encode(data).rstrip(b'=').decode()
thumb = lambda cert: b64(cert.fingerprint(__import__('cryptography.hazmat.primitives.hashes', fromlist=['SHA256']).SHA256()))
now = int(time.time())
def claims(**change):
    made = {'iss': 'acme', 'aud': 'https://orders.example.com', 'exp': now + 120, 'jti': str(len(out))}
    made.update(change)
    return {name: value for name, value in made.items() if value is not None}
out = {}
def put(name, good, token):
    out[name] = [good, token]
put('plain', True, jwt.encode(claims(), key, 'ES256'))
put('audiences', True, jwt.encode(claims(aud=['x', 'https://orders.example.com']), key, 'ES256'))
put('named', True, jwt.encode(claims(), key, 'ES256', headers={'x5t#S256': thumb(certificate), 'kid': 'theirs', 'jku': 'https://evil.example'}))
put('bound', True, jwt.encode(claims(cnf={'x5t#S256': thumb(peer)}), key, 'ES256'))
put('bound elsewhere', False, jwt.encode(claims(cnf={'x5t#S256': thumb(certificate)}), key, 'ES256'))
put('expired', False, jwt.encode(claims(exp=now - 120), key, 'ES256'))
put('no end', False, jwt.encode(claims(exp=None), key, 'ES256'))
put('too long', False, jwt.encode(claims(exp=now + 7200), key, 'ES256'))
put('not yet', False, jwt.encode(claims(nbf=now + 300), key, 'ES256'))
put('audience', False, jwt.encode(claims(aud='https://other.example.com'), key, 'ES256'))
put('no audience', False, jwt.encode(claims(aud=None), key, 'ES256'))
put('other key', False, jwt.encode(claims(), other, 'ES256'))
put('none', False, jwt.encode(claims(), None, 'none'))
put('crit', False, jwt.encode(claims(), key, 'ES256', headers={'crit': ['x'], 'x': 1}))
spki = open('signer.crt', 'rb').read()
head, body = b64(json.dumps({'alg': 'HS256', 'typ': 'JWT'}).encode()), b64(json.dumps(claims()).encode())
mac = hmac.new(spki, f'{head}.{body}'.encode(), hashlib.sha256).digest()
put('public key as secret', False, f'{head}.{body}.{b64(mac)}')
good = jwt.encode(claims(), key, 'ES256')
head, body, signature = good.split('.')
changed = json.loads(base64.urlsafe_b64decode(body + '=='))
changed['jti'] = 'changed'
put('tampered', False, '.'.join([head, b64(json.dumps(changed).encode()), signature]))
put('unsigned', False, f'{head}.{body}.')
print(json.dumps(out))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_pyjwt_pass_or_are_refused_as_they_should() {
    let scene = Scene::set().await;
    let folder = folder();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    write("signer.key", &scene.signer.key_pem);
    write("signer.crt", &scene.signer.chain_pem);
    write("other.key", &scene.acme.key_pem);
    write("acme.crt", &scene.acme.chain_pem);
    let path = folder.path().to_owned();
    let made = tokio::task::spawn_blocking(move || foreign::python(&path, THEIRS, &[])).await.expect("joined");
    let made: Map<String, Value> = serde_json::from_str(&made).expect("JSON");
    assert_eq!(made.len(), 17);
    for (name, made) in &made {
        let answer = scene.with(&scene.acme, made[1].as_str().expect("a token")).await;
        let expected = if made[0] == true { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        assert_eq!(answer.status, expected, "{name}: {}", scene.reason());
    }
}

/// Verifies tokens with a set: file names of both; prints each one's subject.
const OURS: &str = r#"
import sys, json, jwt
keys = jwt.PyJWKSet.from_json(open(sys.argv[1]).read())
for token in open(sys.argv[2]).read().split():
    kid = jwt.get_unverified_header(token)['kid']
    key = next(key for key in keys.keys if key.key_id == kid)
    algorithm = jwt.get_unverified_header(token)['alg']
    claims = jwt.decode(token, key.key, algorithms=[algorithm], audience='https://orders.example.com', options={'require': ['exp', 'iat', 'iss', 'sub', 'aud', 'jti']})
    print(claims['sub'])
"#;

#[test]
fn pyjwt_verifies_our_tokens_of_every_kind_with_the_set_that_the_admin_listener_serves() {
    let folder = folder();
    let path = folder.path();
    let kinds =
        [("p256", "ES256"), ("p384", "ES384"), ("ed25519", "EdDSA"), ("rsa2048", "RS256"), ("rsa3072", "PS256")];
    let run = |arguments: &[&str]| {
        let output = output(sidekey().current_dir(path).args(arguments));
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    let mut tokens = String::new();
    for (kind, algorithm) in kinds {
        run(&["keyring", "new", kind, "--dns", "api.example", "--key-type", kind]);
        let said =
            ["--issuer", "us", "--subject", kind, "--audience", AUDIENCE, "--alg", algorithm, "--claim", "level=3"];
        tokens.push_str(&run(&[&["token", kind][..], &said].concat()));
    }
    std::fs::write(path.join("tokens"), &tokens).expect("written");
    std::fs::write(path.join("jwks.json"), key_set(path)).expect("written");
    let subjects = foreign::python(path, OURS, &["jwks.json", "tokens"]);
    assert_eq!(subjects.split_whitespace().collect::<Vec<_>>(), kinds.map(|(kind, _)| kind));
    for wrong in [
        &["token", "p256", "--audience", "a"][..],
        &["token", "p256", "--issuer", "a", "--audience", "a", "--alg", "RS256"],
        &["token", "p256", "--issuer", "a", "--audience", "a", "--lifetime", "0s"],
        &["token", "p256", "--issuer", "a", "--audience", "a", "--alg", "HS256"],
        &["token", "p256", "--issuer", "a", "--audience", "a", "--claim", "exp=1"],
        &["token", "none", "--issuer", "a", "--audience", "a"],
    ] {
        let output = output(sidekey().current_dir(path).args(wrong));
        assert!(!output.status.success() && output.stdout.is_empty(), "{wrong:?}");
    }
}
