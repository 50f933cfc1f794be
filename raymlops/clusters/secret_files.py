"""Which files look as if they hold secrets, by name and by contents. Reads files; neither sends nor removes any.

Contents are scanned with detect-secrets' rules for keys, tokens and private keys of many services.
"""

import fnmatch
import pathlib
import re

from raymlops.secret_texts import find_secrets

_READ = 512 * 1024
"""Bytes; larger files are not scanned: secrets are in small files, data sets are large."""

FOLDERS = frozenset({
    ".aws", ".azure", ".ssh", ".gnupg", ".gpg", ".kube", ".docker", ".gcloud", "gcloud", ".mlflow", ".ray", ".oci",
    ".huggingface", ".kaggle", ".bluemix", ".terraform", ".vault", ".password-store", "secrets", ".secrets",
    ".snowsql", ".databricks", ".config", ".m2", ".gem", ".cargo", ".pki", "wallet", ".bitcoin", ".ethereum",
})  # fmt: skip
"""Folders in which programs keep their credentials."""
NAMES = (
    # Environment and settings files that hold secrets.
    ".env", ".env.*", "*.env", "*.env.*", ".env-*", ".envrc", "env.local", "local.settings.json",
    ".flaskenv", ".renviron", "renviron", ".rprofile", "secret", "secrets", "secret.*", "secrets.*",
    "*.secret", "*.secrets", "vault.y*ml", ".vault*", "vault-token", "*.vault", "*.tfstate", "*.tfstate.*",
    "*.tfvars", "*.tfvars.*", ".terraformrc", "terraform.rc", "credentials.tfrc.json", "*.auto.tfvars*",
    "pulumi.*.yaml",
    # Keys, certificates with keys, and key stores.
    "*.pem", "*.key", "*.p8", "*.p12", "*.pfx", "*.pkcs12", "*.jks", "*.keystore", "keystore", "*.bks",
    "*.ppk", "*.kdb", "*.kdbx", "*.keytab", "krb5cc_*", "*.keychain", "*.keychain-db", "*.agekey", "*.gpg",
    "*.pgp", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "*_rsa", "*_dsa", "*_ecdsa", "*_ed25519",
    "master.key", "*.mobileprovision", "*.ovpn", "wg[0-9]*.conf", "*.sso", "wallet", "wallet.*", "*.wallet",
    "utc--*",
    # Logins of programs.
    ".netrc", "_netrc", ".pgpass*", "pgpass.conf", ".my.cnf", ".mylogin.cnf", "my.cnf", ".pypirc", ".npmrc",
    ".yarnrc*", ".dockercfg", ".dockerconfigjson", "dockerconfig*.json", ".git-credentials", ".htpasswd",
    "htpasswd", "*.htpasswd", "passwd", "shadow", "kubeconfig", "kubeconfig.*", "*.kubeconfig",
    "*-kubeconfig", "*_kubeconfig", "kube.config", ".s3cfg", ".boto", "boto.cfg", "rclone.conf",
    ".rclone.conf", ".databrickscfg", "snowsql.cnf", "kaggle.json", "auth.json", ".authinfo", "authinfo",
    "gradle.properties", "settings-security.xml", "filezilla.xml", "sitemanager.xml", "recentservers.xml",
    "*.publishsettings", "*.azureauth", "azureauth.json", "accesstokens.json", "azureprofile.json",
    "msal_token_cache*", "logins.json", "key[34].db", "cookies.sqlite", "login data", ".pip.conf",
    "pip.conf", ".*_history", ".lesshst", "wp-config.php", ".condarc", ".gitconfig-*", ".ldaprc", ".cookies",
    "cookies.txt",
    ".dev.vars", "admin.conf", "vault.json", "mnemonic*", "connections.toml", "pg_service.conf", ".pg_service.conf",
    "sftp-config.json", ".ftpconfig", ".rhosts", ".shosts", ".xauthority", ".iceauthority", ".esmtprc", ".msmtprc",
    ".fetchmailrc", ".muttrc", "muttrc", ".offlineimaprc", "*.psk", "wpa_supplicant.conf", "*.cred", "*.opvault",
    # Tokens and accounts.
    "sa.json",
    "token", "token.*",  "*.token", "*_token", "*-token", "auth_token*",
    "access_token*", "refresh_token*", "api_key*", "apikey*", "api-key*", "*_api_key*", "*.apikey",
    "keys.y*ml", "keys.json", "*-keys.json", "*.credentials", "*service-account*.json",
    "*service_account*.json", "*serviceaccount*.json", "gcp-key*", "gcp_key*", "*-sa.json",
    "*client_secret*", "*client-secret*", "application_default_credentials*", "adc.json", "*adminsdk*.json",
    "google-services.json", "googleservice-info.plist",
)  # fmt: skip
"""Glob patterns of file names, in lower case; names are compared in lower case."""
_SUSPECT = re.compile(
    r"credential|passw(or)?d|secret|private[-_.]?key|creds?([-_.]|$)|(^|[-_.])token([-_.](json|txt|ya?ml|ini|cfg|conf|toml))?$"
    r"|(^|[-_.])keys?\.(json|txt|ini|cfg|conf|toml)$|[-_]key$"
)
"""Words in the name of a file that is neither code nor prose."""
_CODE = frozenset({
    ".py", ".pyi", ".pyx", ".md", ".rst", ".js", ".ts", ".tsx", ".jsx", ".go", ".rs", ".java", ".kt",
    ".scala", ".c", ".h", ".cc", ".cpp", ".hpp", ".cs", ".rb", ".jl", ".sql", ".html",
    ".css", ".svg", ".png", ".onnx", ".parquet",
})  # fmt: skip
_COPY = re.compile(r"(~|\.(bak|old|orig|save|sw[a-p]|tmp|backup|copy|\d{1,8}))+$|^#|#$")
"""Suffixes that editors and people add to the name of a copy."""
_HARMLESS = re.compile(r"\.(example|sample|template|tmpl|dist|defaults?)(\.[a-z]+)?$|\.pub$")
"""Templates, and public halves of keys: their names are allowed, their contents are still scanned."""


def explain_secret_name(path: pathlib.PurePath) -> str | None:
    """Why a relative path looks like that of a secret, or None."""
    parts = [part.lower() for part in path.parts]
    name = _COPY.sub("", parts[-1]) or parts[-1]
    for folder in parts[:-1]:
        if folder in FOLDERS:
            return f"it is in {folder}/"
    if _HARMLESS.search(name):
        return None
    code = pathlib.PurePath(name).suffix in _CODE
    for pattern in NAMES:
        if fnmatch.fnmatchcase(name, pattern) and not (code and pattern.endswith((".*", "*"))):
            return f"its name matches {pattern}"
    if not code and (found := _SUSPECT.search(name)):
        return f"its name contains {found[0]!r}"
    return None


def find_secret_contents(path: pathlib.Path) -> str | None:
    """The kind of secret that a file holds and its line, or None. Raises OSError."""
    with path.open("rb") as file:
        data = file.read(_READ)
    if b"\0" in data[:8192] and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "a private key" if b"PRIVATE KEY-----" in data else None
    text = data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8", errors="replace")
    for number, kind in find_secrets(text, path.suffix.lower() in _CODE):
        return f"line {number} looks like {kind}"
    return None
