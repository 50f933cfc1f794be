"""register, convert and promote."""

import pathlib
import shlex

import click

from raymlops.settings import Settings


@click.command()
@click.argument("file", type=click.Path())
@click.option("--name", required=True, help="Name of the registered model.")
@click.option("--why", required=True, help="Reason for registering it; recorded with the version.")
def register(file: str, name: str, why: str) -> None:
    """Register an ONNX FILE of any origin as a model version.

    \b
    raymlops register model.onnx --name fraud --why "from the research team"
    """
    from raymlops.lifecycle.govern.register import register_file

    version, digest = register_file(pathlib.Path(file), name, why, Settings.from_env())
    click.echo(f"Registered models:/{name}/{version} (sha256 {digest[:12]})")
    click.echo(_next_of(name, version))


@click.command()
@click.argument("file", type=click.Path())
@click.option("--name", required=True, help="Name of the registered model.")
@click.option(
    "--data",
    type=click.Path(),
    help="Rows as the model was trained on them, .parquet or .csv: names its inputs, and is predicted by both.",
)
@click.option("--classes", help="Names of the classes in the order of training, A,B,...; default 0,1,...")
@click.option("--target", default="target", show_default=True, help="Name of what is predicted.")
@click.option(
    "--rounds",
    type=int,
    help="The first N rounds; by default those until early stopping, where the file says so.",
)
@click.option(
    "--trust",
    is_flag=True,
    help="Run code, and operations on files, that FILE brings: own classes, Lambda layers. Recorded with the version.",
)
@click.option("--why", default="", help="Reason for registering it; recorded with the version.")
def convert(
    file: str,
    name: str,
    data: str | None,
    classes: str | None,
    target: str,
    rounds: int | None,
    trust: bool,
    why: str,
) -> None:
    """Register a saved model of another library as an ONNX model version: XGBoost (.json, .ubj), LightGBM (.txt, .lgb),
    CatBoost (.cbm), torch (.pt2), Keras (.keras), TensorFlow (the folder of a SavedModel), scikit-learn (.skops). FILE
    is also what was logged in MLflow by the flavor of such a library: runs:/RUN/NAME, models:/m-ID,
    models:/NAME/VERSION or models:/NAME@ALIAS.

    It is registered only if it answers as the library itself does, which opens it in a process of its own. No code in
    FILE runs without --trust; pickles are not read.

    \b
    raymlops convert model.ubj --name fraud --data sample.parquet
    raymlops convert model.txt --name species --classes setosa,versicolor,virginica
    raymlops convert network.keras --name price --data sample.parquet
    raymlops convert runs:/8f2e1c/model --name churn --data sample.csv
    """
    from raymlops.lifecycle.govern.logged_models import convert_model

    found = convert_model(
        file,
        name,
        Settings.from_env(),
        why=why,
        data=pathlib.Path(data) if data else None,
        classes=tuple(one.strip() for one in classes.split(",")) if classes else (),
        target=target,
        rounds=rounds,
        trust=trust,
    )
    click.echo(f"Converted {file}: {found.library}: {found.summary}, {len(found.inputs)} inputs")
    for rows, one in (("rows of the sample", found.sample), (found.made_of, found.made)):
        if one is not None:
            click.echo(
                f"Parity on {one.rows:,} {rows}: worst difference {one.difference:.1e}, {one.flipped} labels differ"
            )
    for note in found.notes:
        click.echo(f"Note: {note}")
    click.echo(f"Registered models:/{name}/{found.version} (sha256 {found.digest[:12]})")
    click.echo(_next_of(name, found.version))


def _next_of(name: str, version: str) -> str:
    return (
        f"Next: raymlops gate {shlex.quote(f'models:/{name}/{version}')} --spec SPEC, "
        f"or raymlops promote {shlex.quote(name)} {version} --force"
    )


@click.command()
@click.argument("name")
@click.argument("version")
@click.option("--alias", default="champion", show_default=True, help="The alias to move.")
@click.option("--why", required=True, help="Reason for moving it; recorded.")
@click.option("--force", is_flag=True, help="Even if it did not pass the gate; the record says so.")
def promote(name: str, version: str, alias: str, why: str, force: bool) -> None:
    """Point an alias of model NAME at VERSION. Only a version that passed the gate becomes champion, unless --force
    is given.

    \b
    raymlops promote flights 3 --why "gate passed, agreed with operations"
    """
    from raymlops.lifecycle.govern.register import promote_version

    before = promote_version(name, version, alias, why, Settings.from_env(), force=force)
    moved = f"from version {before} " if before and before != version else ""
    click.echo(f"models:/{name}@{alias} moved {moved}to version {version}")
