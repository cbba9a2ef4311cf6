//! Lines that people paste into a terminal so that a builder uses a server: the same at its start and on its pages.

/// The address of a server for builders.
#[derive(Clone, Copy, Debug)]
pub struct BuilderRoute<'a> {
    /// `HOST:PORT`, or `HOST`.
    pub name: &'a str,
    /// Without TLS.
    pub plain: bool,
    /// Callers need credentials.
    pub closed: bool,
}

impl BuilderRoute<'_> {
    /// For a builder on the server's host: to a loopback address BuildKit speaks plain HTTP without being told.
    pub fn on_this_host(&self) -> Vec<String> {
        let create = "docker buildx create --name larder --driver docker-container --driver-opt network=host --use";
        self.login().into_iter().chain([create.to_string(), self.build()]).collect()
    }

    /// For a builder that has to be told whether the server speaks TLS, and whom it trusts.
    pub fn configured(&self) -> Vec<String> {
        let trust = if self.plain { "  http = true" } else { "  http = false\\n  ca = [\"/path/to/ca.pem\"]" };
        // A comment that may be pasted with the line.
        let about = if self.plain { "" } else { "   # without ca, if a public CA has signed the certificate" };
        let config = format!("printf '[registry.\"{}\"]\\n{trust}\\n' > buildkitd.toml{about}", self.name);
        let create =
            "docker buildx create --name larder --driver docker-container --buildkitd-config buildkitd.toml --use";
        self.login().into_iter().chain([config, create.to_string(), self.build()]).collect()
    }

    fn login(&self) -> Option<String> {
        let line = || format!("docker login {}   # credentials are needed: the configuration has rules", self.name);
        self.closed.then(line)
    }

    fn build(&self) -> String {
        let name = self.name;
        format!(
            "docker buildx build --cache-to type=registry,ref={name}/app:cache,mode=max,ignore-error=true \
             --cache-from type=registry,ref={name}/app:cache ."
        )
    }
}
