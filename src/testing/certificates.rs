//! Certificates for tests, made by the `openssl` program: an authority, servers and a client that it signed, and another authority
//! that signed nothing. Also used by the integration binary. All of them end after two days.

#![allow(clippy::unwrap_used, dead_code)]

use std::process::{Command, Stdio};

use tempfile::TempDir;

/// What the client's key is encrypted with.
pub const KEY_PASSWORD: &str = "opens-the-key";

/// A folder with PEM files, removed when dropped:
///
/// - `ca.pem` the authority, `other-ca.pem` one that nobody here was signed by.
/// - `server.pem` certificate and key for `localhost` and 127.0.0.1; `elsewhere.pem` the same for another name.
/// - `client.pem` the certificate of `CN=laminar`, `client.key` its key, `client-encrypted.key` the same with [`KEY_PASSWORD`].
pub struct TestCertificates {
    folder: TempDir,
}

impl TestCertificates {
    pub fn make() -> TestCertificates {
        let folder = tempfile::Builder::new()
            .prefix("laminar-certificates-")
            .tempdir()
            .unwrap();
        std::fs::write(folder.path().join("openssl.cnf"), SECTIONS).unwrap();
        let made = TestCertificates { folder };
        made.certificate("ca", "authority", "/CN=Tests of Laminar", None);
        made.certificate("other-ca", "authority", "/CN=Somebody else", None);
        made.certificate("server", "server", "/CN=broker", Some("ca"));
        made.certificate("elsewhere", "elsewhere", "/CN=broker", Some("ca"));
        made.certificate("client", "client", "/CN=laminar", Some("ca"));
        for name in ["server", "elsewhere"] {
            let both = [made.text(&format!("{name}.pem")), made.text(&format!("{name}.key"))].concat();
            std::fs::write(made.path(&format!("{name}.pem")), both).unwrap();
        }
        let password = format!("pass:{KEY_PASSWORD}");
        let (from, to) = ("client.key", "client-encrypted.key");
        made.openssl(&["pkcs8", "-topk8", "-in", from, "-out", to, "-passout", &password]);
        made
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    pub fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    /// `<name>.pem` and `<name>.key`, by a section of [`SECTIONS`].
    fn certificate(&self, name: &str, section: &str, subject: &str, authority: Option<&str>) {
        let (certificate, key) = (format!("{name}.pem"), format!("{name}.key"));
        let mut arguments = vec!["req", "-x509", "-config", "openssl.cnf", "-extensions", section];
        arguments.extend(["-subj", subject, "-days", "2", "-keyout", &key, "-out", &certificate]);
        arguments.extend(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]);
        let by = authority.map(|name| (format!("{name}.pem"), format!("{name}.key")));
        if let Some((certificate, key)) = &by {
            arguments.extend(["-CA", certificate, "-CAkey", key]);
        }
        self.openssl(&arguments);
    }

    fn openssl(&self, arguments: &[&str]) {
        let asked = Command::new("openssl")
            .args(arguments)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    }
}

const SECTIONS: &str = "[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
[server]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1
[elsewhere]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = DNS:elsewhere.example.com
[client]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = clientAuth
";
