#!/usr/bin/env python3
"""scripts/check_structure.py finds each kind of violation, and nothing in a tree that has none."""
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

CHECK = Path(__file__).resolve().parents[2] / "scripts" / "check_structure.py"

CLEAN = {
    "include/dsrsq/core/a.h": "int free_function(int x);\n",
    "src/core/a.cpp": '#include "dsrsq/core/a.h"\n',
    "tests/core/a_test.cpp": '#include "dsrsq/registry.h"\n',
    "include/dsrsq/cache/b.h": '#include <ATen/core/Tensor.h>\n#include "dsrsq/core/a.h"\nstruct B { int f(); };\n',
    "tests/cache/b_test.cpp": "",
    "src/ops/x_cuda.cpp": '#include "kernels/attention/x.h"\n',
    "kernels/attention/x.h": "// a <<< b is fine in a kernel file\n",
    "src/apps/train.cpp": '#include "dsrsq/registry.h"\n// torch::save is fine in a comment\n',
}


def run(files):
    with tempfile.TemporaryDirectory() as root:
        for name, text in {**CLEAN, **files}.items():
            path = Path(root) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        result = subprocess.run([sys.executable, CHECK, root], capture_output=True, text=True)
        return result.returncode, result.stderr


class CheckStructure(unittest.TestCase):
    def expect(self, name, text, message):
        code, errors = run({name: text})
        self.assertEqual(code, 1, f"{name} was accepted")
        self.assertEqual(errors.count("\n"), 1, errors)
        self.assertIn(f"{name}:", errors)
        self.assertIn(message, errors)

    def test_a_clean_tree_passes(self):
        self.assertEqual(run({}), (0, ""))

    def test_upward_include(self):
        self.expect("src/core/c.cpp", '#include "dsrsq/text/t.h"\n', "upward include")

    def test_sibling_include(self):
        self.expect("src/cache/c.cpp", '#include "dsrsq/attention/t.h"\n', "sibling include")

    def test_registry_is_for_apps(self):
        self.expect("src/train/c.cpp", '#include "dsrsq/registry.h"\n', "registry.h is for apps")

    def test_torch_in_a_torch_free_folder(self):
        self.expect("src/data/c.cpp", "#include <c10/util/Half.h>\n", "torch header")
        self.expect("kernels/c.cu", "#include <torch/torch.h>\n", "torch header")

    def test_kernels_include_nothing_of_ours(self):
        self.expect("kernels/c.cu", '#include "dsrsq/core/a.h"\n', "kernels/ includes nothing")

    def test_only_cuda_bindings_include_launchers(self):
        self.expect("src/ops/x.cpp", '#include "kernels/attention/x.h"\n', "only src/ops/*_cuda.cpp")

    def test_kernel_launch(self):
        self.expect("src/ops/y_cuda.cpp", "f<<<1, 2>>>();\n", "kernel launch")

    def test_torch_save(self):
        self.expect("src/train/c.cpp", "void f() { torch::save(x, y); }\n", "torch::save")

    def test_spdlog(self):
        self.expect("src/core/c.cpp", "#include <spdlog/spdlog.h>\n", "spdlog")

    def test_missing_source(self):
        self.expect("include/dsrsq/core/z.h", "int missing(int x);\n", "there is no src/core/z.cpp")

    def test_missing_tests(self):
        self.expect("include/dsrsq/eval/z.h", "struct Z {};\n", "no tests/eval/*_test.cpp")

    def test_long_file(self):
        self.expect("src/core/long.cpp", "\n" * 701, "701 lines")


if __name__ == "__main__":
    unittest.main()
