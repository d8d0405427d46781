import pytest

from braidbandit.cli.shell.place import place_of


def test_the_settings_here_name_the_folder(settings):
    place = place_of(None, None)
    assert place.folder == settings.parent / "braid"
    assert [card.name for card in place.settings.cards] == ["general-7b", "coder-1b"]


def test_a_folder_that_is_named_needs_no_settings(folder, monkeypatch, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    place = place_of(folder, None)
    assert place.settings is None
    with place.open_agent() as agent:
        assert agent.recommender.n_updates_ == 3
        assert set(agent.catalogue.cards) == {"general-7b", "coder-1b"}


def test_what_is_missing_is_said_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="braidbandit init"):
        place_of(None, None)
    place = place_of(tmp_path / "new", None)
    for asked in (place.open_ledger, place.open_agent):
        with pytest.raises(FileNotFoundError):
            asked()
    assert not (tmp_path / "new").exists()
    assert place.load_policy() is None


def test_a_damaged_manifest_is_said(folder):
    (folder / "policy" / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="braidbandit doctor"):
        place_of(folder, None).manifest()


def test_settings_with_a_mistake_are_refused(settings):
    settings.write_text(settings.read_text() + "colour = 1\n")
    with pytest.raises(ValueError, match="colour"):
        place_of(None, None)
