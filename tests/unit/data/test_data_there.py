"""Names of data are looked at before anything is opened."""

import pytest

import regraft
from regraft.data.rows import check_there
from regraft.errors import DataError


def test_all_that_is_missing_is_told_at_once(tmp_path):
    (tmp_path / "mails.csv").write_text("text,label\na,b\n")
    with pytest.raises(DataError) as refused:
        check_there(tmp_path / "mail.csv", None, str(tmp_path / "tests.csv"))
    assert len(refused.value.problems) == 2
    assert "did you mean" in str(refused.value)
    check_there("spam", str(tmp_path / "mails.csv"), [{"text": "a"}], None)


def test_hidden_folders_are_not_offered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".spam-model.run").mkdir()
    with pytest.raises(DataError) as refused:
        check_there("emails")
    assert ".spam-model.run" not in str(refused.value)


def test_a_fit_refuses_missing_data_before_it_opens_a_base(tmp_path):
    events = []
    with pytest.raises(DataError, match="there is no file, folder or sample"):
        regraft.fit(tmp_path / "none.csv", target="label", out=tmp_path / "out", listen=events.append)
    assert not events
    assert not [*tmp_path.iterdir()]
