"""Chapter 07's checks: solutions pass, each slip gets its own diagnosis.

The kernels are those of the notebook: its puzzles and its folded solutions.
"""

import ast
import json
from pathlib import Path

import pytest

from detr_steps import cuda_lab
from detr_steps.check import ch07

BOOK = Path(__file__).resolve().parents[2] / "chapters" / "07_cuda_kernel.ipynb"


def texts() -> dict[str, str]:
    """All kernels of the notebook by the name that its cells give them."""
    cells = json.loads(BOOK.read_text("utf-8"))["cells"]
    found = {}
    for cell in cells:
        source = "".join(cell["source"])
        for node in ast.parse(source).body if cell["cell_type"] == "code" else ():
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                found |= {name.id: node.value.value for name in node.targets}
    return found


TEXTS = texts()
SOLVED = {
    "one_per_channel": TEXTS["naive"],
    "once_per_point": TEXTS["shared"],
    "four_at_once": TEXTS["vectors"],
    "butterfly": TEXTS["butterfly"],
    "count_in_block": TEXTS["counting"],
}
PUZZLES = [text for name, text in TEXTS.items() if name.endswith("_puzzle")]
THREE = "sum.y += s * four.y;\n    sum.z += s * four.z;\n    sum.w += s * four.w;"
needs_compiler = pytest.mark.skipif(
    cuda_lab.trouble() is not None, reason=f"no emulator: {cuda_lab.trouble()}"
)


@needs_compiler
@pytest.mark.parametrize("name", SOLVED)
def test_solutions_pass(name):
    verdict = getattr(ch07, name)(SOLVED[name])
    assert verdict, verdict.message


@pytest.mark.parametrize("name", SOLVED)
def test_puzzles_are_not_yet_solved(name):
    (puzzle,) = [text for text in PUZZLES if f" {name}(" in text]
    assert "not yet" in getattr(ch07, name)(puzzle).message
    assert "not yet" in getattr(ch07, name)(None).message


@needs_compiler
@pytest.mark.parametrize("name", SOLVED)
def test_text_that_is_no_cuda_is_said_to_be_so(name):
    verdict = getattr(ch07, name)(SOLVED[name].replace("int i", "itn i", 1) + "}")
    assert not verdict and "does not compile" in verdict.message
    assert "Likely" not in verdict.message  # its comments are C's


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setattr(cuda_lab, "trouble", lambda where: "no C++ compiler")
    assert "no C++ compiler" in ch07.butterfly(SOLVED["butterfly"]).message


@needs_compiler
def test_where_there_is_a_card_it_decides_as_well(monkeypatch):
    compile_, tried = cuda_lab.compile, []

    def compile_anywhere(text, name, where):  # a card that has its own idea of a half
        tried.append(where)
        slip = ("- 0.5f", "- 0.25f") if where == "cuda" and broken else ("", "")
        return compile_(text.replace(*slip) if broken else text, name, "emulator")

    monkeypatch.setattr(cuda_lab, "trouble", lambda where="auto": None)
    monkeypatch.setattr(cuda_lab, "compile", compile_anywhere)
    broken = False
    verdict = ch07.one_per_channel(SOLVED["one_per_channel"])
    assert verdict and "The card says so" in verdict.message
    broken = True
    verdict = ch07.one_per_channel(SOLVED["one_per_channel"])
    assert not verdict and "but on the card" in verdict.message
    assert tried == ["emulator", "cuda"] * 2


BORDER = "row < 0 || row >= h || column < 0 || column >= w"


@needs_compiler
@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("one_per_channel", "i / width, c = i % width", "i % queries, c = i / queries",
         "query and channel are swapped"),
        ("one_per_channel", "at[2 * p] * w - 0.5f, y = at[2 * p + 1]",
         "at[2 * p + 1] * w - 0.5f, y = at[2 * p]", "x and y are swapped"),
        ("one_per_channel", "q = i / width", "q = i / queries", "width threads"),
        ("one_per_channel", "c = i % width", "c = i % queries", "not i % queries"),
        ("one_per_channel", "row * w + column", "row * h + column", "w pixels"),
        ("one_per_channel", "* width + c]", "* w + c]", "width numbers"),
        ("one_per_channel", "- 0.5f", "", "half a pixel"),
        ("one_per_channel", BORDER, "false", "at the border"),
        ("one_per_channel", BORDER, "row < 0 || row > h || column < 0 || column > w",
         "at the border"),
        ("one_per_channel", "row * w + column", "column * h + row", "row by row"),
        ("one_per_channel", "(row * w + column) * width + c",
         "c * h * w + row * w + column", "side by side"),
        ("one_per_channel", "* width + c]", "* width]", "channel 0"),
        ("one_per_channel", "(row * w + column) * width + c", "row * w + column",
         "expected"),
        ("one_per_channel", "sum += weight[p] * share", "sum += share", "weight"),
        ("one_per_channel", "* width + c]", "* width + q]", "channel 1 read channel 0"),
        ("one_per_channel", "c = i % width", "c = i / width",
         "channel 1 read channel 0"),
        ("one_per_channel", "c = i % width", "c = i % w", "channel 6 read channel 0"),
        ("one_per_channel", "* width + c]", "* width + corner]", "ends in + corner"),
        ("one_per_channel", "* width + c]", "* width + p]", "ends in + p"),
        ("one_per_channel", "* width + c]", "* width + i]", "pixels lie row by row"),
        ("one_per_channel", "(row * w + column) * width + c", "row * w + column",
         "only the pixel's number"),
        ("one_per_channel", "* width + c]", "+ c]", "lacks * width"),
        ("one_per_channel", "sum += weight[p]", "sum = weight[p]", "not by a mistake"),
        ("one_per_channel", "result[i] = sum;", "", "nothing was written"),
        ("one_per_channel", "i / width", "i // width", "`//` begins a comment"),
        ("butterfly", "step /= 2", "step //= 2", "`//` begins a comment"),
        ("count_in_block", "&mine[pixel[i]]", "mine[pixel[i]]", "wants an address"),
        ("count_in_block", "&hits[p]", "hits[p]", "wants an address"),
        ("once_per_point", "__syncthreads();", "", "__syncthreads"),
        ("once_per_point", "* weight[n]", "", "attention weight"),
        ("once_per_point", "row * w + column : 0", "column * h + row : 0",
         "row by row"),
        ("once_per_point", "near * weight[n] : 0", "near * weight[p] : 0",
         "weight[n]"),
        ("once_per_point", "* weight[n]", "* weight[q]", "weight[q]"),
        ("once_per_point", "row * w + column : 0", "row * h + column : 0",
         "w pixels, not h"),
        ("once_per_point", "row * w + column : 0", "n : 0", "the point's number"),
        ("once_per_point", "inside ? row * w + column : 0", "row * w + column",
         "a place too"),
        ("once_per_point", "inside ? row * w + column : 0",
         "inside ? (row * w + column) * width : 0", "multiplied by width later"),
        ("four_at_once", "place[n] * 8 + lane", "place[n] * 32 + lane", "float4"),
        ("four_at_once", "place[n] * 8 + lane", "place[n] * 8", "+ lane"),
        ("four_at_once", "place[n] * 8 + lane", "place[n] + lane", "* 8"),
        ("four_at_once", "place[n] * 8 + lane", "place[n] * corners + lane",
         "however many corners"),
        ("four_at_once", "place[n] * 8 + lane", "lane * 8 + place[n]", "turned round"),
        ("four_at_once", "sum.y += s * four.y;", "", "added to sum.y: a float4"),
        ("four_at_once", "sum.z += s * four.z;", "", "added to sum.z: a float4"),
        ("four_at_once", "sum.w += s * four.w;", "", "added to sum.w: a float4"),
        ("four_at_once", "sum.z += s * four.z;\n    sum.w += s * four.w;", "",
         "added to sum.z and sum.w"),
        ("four_at_once", "s * four.z", "s * four.y", "sum.z adds four.y"),
        ("four_at_once", "s * four.w", "s * four.x", "sum.w adds four.x"),
        ("four_at_once", "s * four.y", "four.y", "four.y was not multiplied"),
        ("four_at_once", THREE, "", "only .x"),
        ("four_at_once", THREE, THREE.replace("four.y", "four.x")
         .replace("four.z", "four.x").replace("four.w", "four.x"), "first one"),
        ("four_at_once", THREE, THREE.replace("s * ", ""),
         "only .x was multiplied"),
        ("butterfly", "sum +=", "sum =", "replaced"),
        ("butterfly", "sum, step)", "sum, 1)", "same partner"),
        ("butterfly", "sum, step)", "sum, 16)", "same partner"),
        ("butterfly", "__shfl_xor_sync", "__shfl_down_sync", "lane 0"),
        ("butterfly", "sum += __shfl_xor_sync(all, sum, step);", ";",
         "nothing was exchanged"),
        ("butterfly", "step = 16", "step = 8", "starts at 8"),
        ("butterfly", "step = 16", "step = 32", "starts at 32"),
        ("butterfly", "step > 0", "step > 1", "ends at 2"),
        ("butterfly", "step /= 2", "step /= 4", "leaves lanes out"),
        ("butterfly", "__shfl_xor_sync", "__shfl_up_sync", "lane 31"),
        ("butterfly", "step /= 2", "step /= 32", "one exchange"),
        ("butterfly", "step /= 2", "step -= 2", "falls by 2"),
        ("butterfly", "step /= 2", "step -= 1", "falls by 1"),
        ("butterfly", "xor_sync(all, sum, step)", "sync(all, sum, lane)",
         "added itself"),
        ("butterfly", "0xffffffff", "0xffff", "mask"),
        ("count_in_block", "__syncthreads();  // all are zero", "", "__syncthreads"),
        ("count_in_block", "__syncthreads();  // all have counted", "",
         "__syncthreads"),
        ("count_in_block", "atomicAdd(&mine[pixel[i]], 1)", "mine[pixel[i]] += 1",
         "atomicAdd(&mine"),
        ("count_in_block", "atomicAdd(&hits[p], mine[p])", "hits[p] += mine[p]",
         "atomicAdd(&hits"),
        ("count_in_block", "atomicAdd(&hits[p], mine[p])", "atomicAdd(&hits[p], 1)",
         "each block added 1"),
        ("count_in_block", "atomicAdd(&mine[pixel[i]], 1)",
         "atomicAdd(&hits[pixel[i]], 1)", "count in mine first"),
    ],
)  # fmt: skip
def test_slips_are_named(name, old, new, words):
    assert old in SOLVED[name]
    verdict = getattr(ch07, name)(SOLVED[name].replace(old, new))
    assert not verdict and words in verdict.message, verdict.message


@needs_compiler
def test_loads_of_four_bytes_are_seen():
    narrow = SOLVED["four_at_once"].replace(
        "rows[place[n] * 8 + lane]",
        "make_float4(v[0], v[1], v[2], v[3])",
    )
    narrow = narrow.replace(
        "float4 four", "const float* v = value + place[n] * 32 + lane * 4; float4 four"
    )
    verdict = ch07.four_at_once(narrow)
    assert not verdict and "4 bytes at a time" in verdict.message


@needs_compiler
@pytest.mark.parametrize("last", ["    __syncthreads();\n  }\n", "  }\n"])
def test_a_barrier_that_not_all_threads_pass(last):
    """In the `if`, or before it: there is one, so it is not said to be missing."""
    text = SOLVED["once_per_point"].replace("__syncthreads();", "")
    text = text.replace("  }\n  ", last + "  ", 1)
    if last == "  }\n":
        text = text.replace(
            "  if (p < points)", "  __syncthreads();\n  if (p < points)"
        )
    verdict = ch07.once_per_point(text)
    assert not verdict and "outside of the if" in verdict.message
    assert "is missing" not in verdict.message


@needs_compiler
def test_adding_zeros_is_right_and_said():
    text = SOLVED["count_in_block"].replace("if (mine[p]) atomic", "atomic")
    verdict = ch07.count_in_block(text)
    assert verdict and "120 adds" in verdict.message and "36 would do" in str(verdict)
    assert "36 adds" in ch07.count_in_block(SOLVED["count_in_block"]).message


PIXELS = list(range(1, 33))  # query q reads pixel q + 1
LOAD = [(lane, (lane // 8 + 1) * 32 + lane % 8) for lane in range(32)]


def test_a_right_drawing_says_what_moves():
    verdict, panels = ch07.drawn(lambda lane: (lane // 8, lane % 8), PIXELS, LOAD)
    assert verdict and "4 sectors" in verdict.message and "32 are used" in str(verdict)
    assert panels == {"drawn": LOAD, "the kernel": LOAD}
    far = [(lane, (lane + 1) * 32) for lane in range(32)]
    verdict, _ = ch07.drawn(lambda lane: (lane, 0), PIXELS, far)
    assert "32 sectors, of whose 256 numbers 32" in verdict.message


@pytest.mark.parametrize(
    ("takes", "words", "drawn"),
    [
        (lambda lane: None, "not yet", False),
        (lambda lane: lane, "two numbers", False),
        (lambda lane: (lane / 8, lane % 8), "is //", False),
        (lambda lane: (0, lane), "32 channels of one query", True),
        (lambda lane: (lane, 0), "eight lanes share one", True),
        (lambda lane: (lane % 8, lane // 8), "swapped", True),
        (lambda lane: (lane // 8, 0), "lane 1 reads channel 1 of pixel 1; you", True),
    ],
)
def test_slips_of_a_drawing_are_named(takes, words, drawn):
    verdict, panels = ch07.drawn(takes, PIXELS, LOAD)
    assert not verdict and words in verdict.message
    assert bool(panels) == drawn
