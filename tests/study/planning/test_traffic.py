"""What a program for a GPU moves of its weights, counted in its text; descriptions of cards."""

import pytest

from jaxdepth.study.planning.cards import CARDS
from jaxdepth.study.planning.chips import GPUS
from jaxdepth.study.planning.traffic import Traffic, weight_traffic

# Two layers of a stacked matrix W (8 x 8, 16 bits: 128 bytes each) in a loop of 2 in one whose end
# is not known, as XLA writes them for a GPU. The first is sliced out by a kernel of its own and
# multiplied by, the second is sliced by the kernel that multiplies; a table of 16 x 8 is gathered.
PROGRAM = """
%slices (p.0: bf16[2,8,8], p.1: s32[]) -> bf16[1,8,8] {
  %p.0 = bf16[2,8,8]{2,1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %s = bf16[1,8,8]{2,1,0} dynamic-slice(%p.0, %p.1, %zero, %zero), dynamic_slice_sizes={1,8,8}
}

%multiplies (q.0: bf16[4,8], q.1: bf16[2,8,8]) -> f32[4,8] {
  %q.0 = bf16[4,8]{1,0} parameter(0)
  %q.1 = bf16[2,8,8]{2,1,0} parameter(1)
  %same = bf16[2,8,8]{2,1,0} bitcast(%q.1)
  %one = bf16[1,8,8]{2,1,0} slice(%same), slice={[1:2], [0:8], [0:8]}
  %flat = bf16[8,8]{1,0} bitcast(%one)
  ROOT %d = f32[4,8]{1,0} dot(%q.0, %flat), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%gathers (g.0: bf16[16,8], g.1: s32[4,1]) -> bf16[4,8] {
  %g.0 = bf16[16,8]{1,0} parameter(0)
  %g.1 = s32[4,1]{1,0} parameter(1)
  ROOT %g = bf16[4,8]{1,0} gather(%g.0, %g.1), offset_dims={1}, slice_sizes={1,8}
}

%layer (carry: (s32[], bf16[4,8], bf16[2,8,8])) -> (s32[], bf16[4,8], bf16[2,8,8]) {
  %carry = (s32[], bf16[4,8]{1,0}, bf16[2,8,8]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%carry), index=0
  %x = bf16[4,8]{1,0} get-tuple-element(%carry), index=1
  %w = bf16[2,8,8]{2,1,0} get-tuple-element(%carry), index=2
  %copied = bf16[1,8,8]{2,1,0} fusion(%w, %i), kind=kLoop, calls=%slices
  %flat.1 = bf16[8,8]{1,0} bitcast(%copied)
  %y = bf16[4,8]{1,0} custom-call(%x, %flat.1), custom_call_target="__cublas$gemm"
  %z = f32[4,8]{1,0} fusion(%y, %w), kind=kCustom, calls=%multiplies
  ROOT %next = (s32[], bf16[4,8]{1,0}, bf16[2,8,8]{2,1,0}) tuple(%i, %y, /*index=2*/%w)
}

%token (state: (s32[], bf16[4,8], bf16[2,8,8])) -> (s32[], bf16[4,8], bf16[2,8,8]) {
  %state = (s32[], bf16[4,8]{1,0}, bf16[2,8,8]{2,1,0}) parameter(0)
  ROOT %layers = (s32[], bf16[4,8], bf16[2,8,8]) while(%state), body=%layer, {TWICE}
}

ENTRY %main (m.0: bf16[2,8,8], m.1: bf16[16,8], m.2: s32[4,1]) -> (s32[], bf16[4,8], bf16[2,8,8]) {
  %m.0 = bf16[2,8,8]{2,1,0} parameter(0), metadata={op_name="model.layers.q.value"}
  %m.1 = bf16[16,8]{1,0} parameter(1), metadata={op_name="model.embed.value"}
  %m.2 = s32[4,1]{1,0} parameter(2), metadata={op_name="tokens"}
  %start = s32[] constant(0)
  %rows = bf16[4,8]{1,0} fusion(%m.1, %m.2), kind=kLoop, calls=%gathers
  %all = (s32[], bf16[4,8]{1,0}, bf16[2,8,8]{2,1,0}) tuple(%start, %rows, %m.0)
  ROOT %end = (s32[], bf16[4,8]{1,0}, bf16[2,8,8]{2,1,0}) while(%all), condition=%c, body=%token
}
""".replace("{TWICE}", 'backend_config={"known_trip_count":{"n":"2"}}')


def test_reads_and_copies_are_followed_through_loops_and_fusions():
    gathered = Traffic(read=64, kernels=1)
    assert weight_traffic(PROGRAM, 0) == gathered
    # A layer reads its slice, the copy of it, and the other slice: 3 kernels.
    actual = weight_traffic(PROGRAM, 5)
    assert actual == Traffic(64 + 10 * 3 * 128, 10 * 128, 10, 1 + 10 * 3)
    assert actual.moved == actual.read + actual.copied


def test_a_slice_may_be_started_and_waited_for():
    alone = PROGRAM.replace(
        "%copied = bf16[1,8,8]{2,1,0} fusion(%w, %i), kind=kLoop, calls=%slices",
        "%begun = ((bf16[2,8,8], s32[]), bf16[1,8,8], u32[]) dynamic-slice-start(%w, %i)\n"
        "  %copied = bf16[1,8,8]{2,1,0} dynamic-slice-done(%begun)",
    )
    actual, expected = (weight_traffic(program, 5) for program in (alone, PROGRAM))
    assert (actual.copies, actual.kernels) == (expected.copies, expected.kernels)
    assert actual.read == pytest.approx(expected.read, rel=0.05)


def test_a_kernel_that_reads_all_of_it_reads_all_of_it():
    whole = PROGRAM.replace(
        "slice(%same), slice={[1:2], [0:8], [0:8]}", "reduce(%same, %z), dimensions={0}"
    )
    assert weight_traffic(whole, 1).read == 64 + 2 * (128 + 128 + 256)


@pytest.mark.parametrize("kind", GPUS)
def test_a_described_card_is_the_one_that_the_figures_are_of(kind):
    assert CARDS[kind].memory == pytest.approx(GPUS[kind].memory, rel=0.08)
    assert CARDS[kind].bandwidth == pytest.approx(GPUS[kind].bandwidth, rel=0.01)
    assert kind in CARDS[kind].name
