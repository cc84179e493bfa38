"""Published norms: every figure has a source, and no z-score is given where the source does not allow one."""

import pytest

from clarion.oct.norms import CIRRUS, NORMS, SPECTRALIS, norm_of, z_score


def test_every_norm_names_its_source_and_no_two_compete():
    assert len({(n.name, n.device) for n in NORMS}) == len(NORMS)
    for norm in NORMS:
        assert norm.n >= 50 and any(mark in norm.source for mark in ("doi", "PMC", "57(2)", "articleid"))
        assert 5 < norm.mean < 400 and (norm.sd is None or 0 < norm.sd < 40)


def test_z_against_the_norm_of_the_same_device():
    z = z_score(270.2 + 45, "CSF", device="Heidelberg Spectralis OCT2")
    assert z.z == pytest.approx(2) and "10.1016/j.ajo.2009.03.006" in z.source
    assert "not the device's normative database" in z.caution
    assert z_score(262.4, "CSF", device="Zeiss Cirrus HD-OCT 5000").z == pytest.approx(0)
    assert norm_of("CSF", SPECTRALIS) is not norm_of("CSF", CIRRUS)


@pytest.mark.parametrize(
    ("value", "name", "age", "device", "why"),
    [
        (300, "inner_nasal", None, SPECTRALIS, "No verified published norm"),
        (300, "CSF", None, "Topcon 3D OCT-1000", "No verified published norm"),
        (12, "RNFL/CSF", None, SPECTRALIS, "without its SD"),
        (float("nan"), "CSF", None, SPECTRALIS, "not measured"),
        (270, "CSF", 9, SPECTRALIS, "ages 20 to 84"),
    ],
)
def test_no_z_without_a_reason(value, name, age, device, why):
    z = z_score(value, name, age, device)
    assert z.z is None and why in z.why
