"""The wheel holds all that `graft` needs outside a checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def test_an_installed_graft_finds_its_configuration(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=CHECKOUT, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    shipped = {path.relative_to(site / "graft" / "conf") for path in (site / "graft" / "conf").rglob("*.yaml")}
    assert shipped == {path.relative_to(CHECKOUT / "conf") for path in (CHECKOUT / "conf").rglob("*.yaml")}
    assert {path.name for path in (site / "graft" / "reports" / "assets").iterdir()} == {
        "page.html",
        "script.js",
        "style.css",
    }
    code = (
        "import graft; from graft.cli.main import main; print(graft.__file__); main(['show', 'strategy/lp_ft']); "
        "from hydra.core.plugins import Plugins; print(Plugins.instance().class_name_to_class.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith(str(site))
    assert "name: lp_ft" in done.stdout
    for name in ("optuna_sweeper.OptunaSweeper", "gpu_launcher.GpuLauncher"):
        assert f"hydra_plugins.graft_plugins.{name}" in done.stdout
