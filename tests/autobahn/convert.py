"""Turns the Autobahn test suite, which is Python 2, into Python 3, and says so loudly if it cannot.

The source is read as latin-1, so that every byte string keeps its values as text; `latin1.py` and
`fuzz.py` turn that text into bytes where it meets the network. Of the suite only the cases and the
fuzzing peer are taken; the edits below are all that is changed by hand.
"""

import pathlib
import shutil
import subprocess
import sys

SUITE = "autobahntestsuite==25.10.1"

BINASCII = ("import binascii", "from autobahntestsuite import latin1 as binascii")
# Python 3 has no room for `object` before a class that already descends from it.
BASES = ("(object, Case, )", "(Case, )")

# file → [(old, new)]: each `old` must be there after the general conversion, or the suite has changed
# and somebody must look.
EDITS = {
    "fuzzing.py": [
        # TLS would need pyOpenSSL.
        ("from twisted.internet import reactor, ssl", "from twisted.internet import reactor"),
        ("ssl.ClientContextFactory()", "None"),
        # The HTML reports, which nobody reads here, and jinja2 with them.
        (
            "from report import CSS_COMMON, \\\n"
            "                   CSS_DETAIL_REPORT, \\\n"
            "                   CSS_MASTER_REPORT, \\\n"
            "                   JS_MASTER_REPORT\n",
            "",
        ),
        ("''.join(payload)", "b''.join(payload)"),
        ("import os, json, binascii, time,", "import os, json, time,"),
        ("import autobahntestsuite\n", "import autobahntestsuite\nfrom autobahntestsuite import latin1 as binascii\n"),
    ],
    # A pickle also tells objects apart that are equal but not the same.
    "case/case.py": [("pickle.dumps(obj1) == pickle.dumps(obj2)", "obj1 == obj2")],
    # 9.9.1 is in no list of cases, and uses what zope.interface no longer has.
    "case/__init__.py": [("from case9_9_1 import *\n", "")],
    "case/case10_1_1.py": [("len(self.payload) / self.p.auto", "len(self.payload) // self.p.auto")],
    "case/case6_2_1.py": [BINASCII],
    "case/case6_2_2.py": [BINASCII],
    "case/case6_2_3.py": [BINASCII],
    "case/case6_2_4.py": [BINASCII],
    "case/case6_3_1.py": [BINASCII],
    "case/case6_3_2.py": [BINASCII],
    "case/case6_4_1.py": [BINASCII],
    "case/case6_4_2.py": [BINASCII],
    "case/case6_4_3.py": [BINASCII],
    "case/case6_4_4.py": [BINASCII],
    "case/case6_x_x.py": [
        BINASCII,
        BASES,
        (
            "from autobahn.websocket.utf8validator import Utf8Validator",
            "from autobahntestsuite.latin1 import Utf8Validator",
        ),
    ],
    "case/case7_5_1.py": [BINASCII],
    "case/case7_7_X.py": [BASES],
    "case/case7_9_X.py": [BASES],
    "case/case9_7_X.py": [BASES],
    "case/case12_x_x.py": [BASES],
}

# The suite's own start-up imports all of its tools, most of which we leave out.
INIT = "from ._version import __version__\n\nversion = __version__\n"


def convert(into):
    """Fetches the suite and leaves the package `autobahntestsuite` in the folder `into`."""
    from fissix.refactor import RefactoringTool, get_fixers_from_package

    source = fetch(into / "source")
    package = into / "autobahntestsuite"
    package.mkdir()
    (package / "__init__.py").write_text(INIT, encoding="utf-8")
    shutil.copytree(source / "case", package / "case")
    shutil.copytree(source / "testdata", package / "testdata")
    for name in ["_version.py", "caseset.py", "fuzzing.py"]:
        shutil.copy(source / name, package / name)
    (package / "case" / "case9_9_1.py").unlink()

    for name in EDITS:
        if not (package / name).exists():
            sys.exit(f"convert.py: {SUITE} has no {name} any more; look at it and change EDITS")

    tool = RefactoringTool(get_fixers_from_package("fissix.fixes"))
    for path in sorted(package.rglob("*.py")):
        # Converted in place: what an import means depends on which files lie beside it.
        python2 = path.read_text(encoding="latin-1")
        python3 = str(tool.refactor_string(python2 + "\n", str(path)))
        name = path.relative_to(package).as_posix()
        path.write_text(edit(name, python3), encoding="utf-8")

    shutil.copy(pathlib.Path(__file__).parent / "latin1.py", package / "latin1.py")


def fetch(folder):
    folder.mkdir(parents=True)
    options = "--quiet --disable-pip-version-check --no-deps --no-build-isolation --no-binary autobahntestsuite"
    subprocess.run(
        [sys.executable, "-m", "pip", "download", *options.split(), "--dest", str(folder), SUITE],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    [archive] = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder)
    return folder / archive.name.removesuffix(".tar.gz") / "autobahntestsuite"


def edit(name, text):
    for old, new in EDITS.get(name, []):
        if old not in text:
            sys.exit(f"convert.py: {name} of {SUITE} does not contain {old!r} any more; look at it and change EDITS")
        text = text.replace(old, new)
    return text


if __name__ == "__main__":
    convert(pathlib.Path(sys.argv[1]))
