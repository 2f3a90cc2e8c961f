"""Settings: sources and their order, what is refused and how that reads, and what the digest depends on."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from djinn_fx.errors import SettingsError
from djinn_fx.settings.sources import OLD_TYPES, TORCH_OPTIONS, read_text
from djinn_fx.settings.table import GROUPS, PROJECT_FILE, Settings, accepted, facts
from tools.settings_table import FILES, table

#: A device of one processor.
DEVICE = {"cpu:0": {"cores": [min(os.sched_getaffinity(0))]}} if hasattr(os, "sched_getaffinity") else None


def load(
    options: Any = None, *, mode: str | None = None, environ: dict[str, str] | None = None, cwd: Path | None = None
) -> Settings:
    return Settings.load(mode, options, environ=environ or {}, cwd=cwd)


def refusal(options: Any = None, **sources: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        load(options, **sources)
    return str(caught.value)


def write_project(folder: Path, text: str) -> Path:
    path = folder / PROJECT_FILE
    path.write_text(text, "utf-8")
    return path


@pytest.fixture
def user_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = tmp_path / "config" / "djinn_fx" / "config.yaml"
    path.parent.mkdir(parents=True)
    return path


class Guess:
    """A cost model of a user's."""

    def __init__(self, name: str = "guess") -> None:
        self.name = name

    def op(self, work: object, device: object) -> None: ...

    def region(self, graph: object, device: object, engine: str) -> None: ...


class Nameless(Guess):
    def __init__(self) -> None:
        self.name = 3  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True)
class Shout:
    """A pass, as far as settings care."""

    volume: int = 1

    def run(self, srg: object, context: object) -> None: ...


class TestSources:
    def test_defaults(self) -> None:
        settings = load()
        assert settings.engine == "auto"
        assert settings.on_failure == "eager"
        assert settings.passes is None
        assert settings.cache_limit_bytes == 20 * 10**9
        assert settings.progress is None

    @pytest.mark.skipif(sys.platform != "linux", reason="XDG_CONFIG_HOME is where Linux looks")
    def test_each_source_beats_the_next(self, tmp_path: Path, user_config: Path) -> None:
        user_config.write_text("expected_calls: 1\n")
        assert load(cwd=tmp_path).expected_calls == 1
        write_project(tmp_path, "expected_calls: 2\n")
        assert load(cwd=tmp_path).expected_calls == 2
        environ = {"DJINN_EXPECTED_CALLS": "3"}
        assert load(environ=environ, cwd=tmp_path).expected_calls == 3
        assert load({"expected_calls": 4}, environ=environ, cwd=tmp_path).expected_calls == 4

    def test_sources_are_merged_name_by_name(self, tmp_path: Path) -> None:
        write_project(tmp_path, "regions: whole\nengine: inductor\n")
        settings = load({"mega_cache": True}, environ={"DJINN_ENGINE": "eager"}, cwd=tmp_path)
        assert (settings.regions, settings.engine, settings.mega_cache) == ("whole", "eager", True)

    def test_the_project_file_is_looked_up_in_the_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_project(tmp_path, "regions: whole\n")
        monkeypatch.chdir(tmp_path)
        assert Settings.load(environ={}).regions == "whole"

    def test_a_working_directory_that_is_gone_is_no_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gone = tmp_path / "gone"
        gone.mkdir()
        monkeypatch.chdir(gone)
        gone.rmdir()
        assert Settings.load(environ={}) == load(cwd=tmp_path)

    def test_the_process_environment_is_the_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DJINN_ENGINE", "eager")
        assert Settings.load().engine == "eager"

    def test_the_users_options_are_never_changed(self) -> None:
        options = {"engine": "eager", "passes": ["lifetimes"], "guard_filter_fn": len, "use_aoti": True}
        before = dict(options)
        settings = load(options)
        assert options == before
        assert options["passes"] == ["lifetimes"]
        assert settings.passes == ("lifetimes",)

    @pytest.mark.parametrize("name", TORCH_OPTIONS)
    def test_torchs_own_options_are_left_to_torch(self, name: str) -> None:
        assert load({name: object()}) == load()

    def test_mode(self) -> None:
        assert load(mode="max-autotune").mode == "max-autotune"
        assert load({"mode": "max-autotune"}).mode == "max-autotune"
        assert "mode=" in refusal({"mode": "default"}, mode="max-autotune")


class TestEnvironment:
    @pytest.mark.parametrize(
        ("variable", "text", "value"),
        [
            ("DJINN_MEGA_CACHE", "0", False),
            ("DJINN_FALLBACK_RANDOM", "Off", False),
            ("DJINN_CHECK_PASSES", "yes", True),
            ("DJINN_PROGRESS", "none", None),
            ("DJINN_PROGRESS", "1", True),
            ("DJINN_REGIONS", "auto:0.5", "auto:0.5"),
            ("DJINN_CACHE_LIMIT", "0", "0B"),
            ("DJINN_CACHE_LIMIT", "512 MiB", "512 MiB"),
            ("DJINN_CACHE_DIR", "/a/b", "/a/b"),
            ("DJINN_CACHE_DIR", "~/b", os.path.expanduser("~/b")),
            ("DJINN_PASSES", "none", None),
            ("DJINN_PASSES", "lifetimes", ("lifetimes",)),
            ("DJINN_PASSES", "a, b{x=1,y=2} ,c", ("a", "b{x=1,y=2}", "c")),
        ],
    )
    def test_text_is_read_as_the_settings_type(self, variable: str, text: str, value: object) -> None:
        name = variable.removeprefix("DJINN_").lower()
        found = getattr(load(environ={variable: text}), name)
        assert found == value
        assert type(found) is type(value)

    def test_an_empty_variable_counts_as_not_set(self) -> None:
        assert load(environ={"DJINN_ENGINE": ""}) == load()

    def test_a_bad_value_names_the_variable(self) -> None:
        message = refusal(environ={"DJINN_EXPECTED_CALLS": "many"})
        assert "DJINN_EXPECTED_CALLS" in message
        assert "'many'" in message

    def test_a_misspelt_variable_is_refused(self) -> None:
        message = refusal(environ={"DJINN_ENGIN": "eager"})
        assert "DJINN_ENGIN:" in message
        assert "did you mean 'engine'?" in message

    def test_the_debug_switch_is_no_setting(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level("WARNING", "djinn_fx.settings.table"):
            assert load(environ={"DJINN_DEBUG": "1"}) == load()
        assert not caplog.records

    def test_text_for_no_setting_is_left_as_it_is(self) -> None:
        assert read_text("engin", "eager", Settings.model_fields) == "eager"

    def test_an_unrelated_variable_is_only_warned_about(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level("WARNING", "djinn_fx.settings.table"):
            assert load(environ={"DJINN_SERVICE_HOST": "10.0.0.1"}) == load()
        assert "DJINN_SERVICE_HOST" in caplog.text


class TestFile:
    def test_an_empty_file_says_nothing(self, tmp_path: Path) -> None:
        write_project(tmp_path, "# nothing\n")
        assert load(cwd=tmp_path) == load()

    def test_every_type(self, tmp_path: Path) -> None:
        write_project(
            tmp_path,
            "fallback_random: off\nprogress: ~\nregions: auto:0.5\ncache_limit: 3GB\n"
            "passes:\n  - lifetimes\n  - find-regions{min-ops=4}\n",
        )
        settings = load(cwd=tmp_path)
        assert settings.fallback_random is False
        assert settings.progress is None
        assert settings.max_boundary_share == 0.5
        assert settings.cache_limit_bytes == 3 * 10**9
        assert settings.passes == ("lifetimes", "find-regions{min-ops=4}")

    @pytest.mark.parametrize(
        ("text", "at", "says"),
        [
            ("engine: eager\nregiones: whole\n", ":2:1:", "did you mean 'regions'?"),
            ("engine: eager\nexpected_calls: many\n", ":2:17:", "expected_calls must be"),
            ("progress: true\n\nprogress: false\n", ":3:1:", "given twice"),
            ("engine: [eager\n", ":2:1:", "not valid YAML"),
            ("- engine\n", ":1:1:", "name: value"),
            ("engine\n", ":1:1:", "name: value"),
            ("[a, b]: 1\n", ":1:1:", "unknown option"),
            ("3: 1\n", ":1:1:", "unknown option 3"),
            ("engine: !!python/object:os.system {}\n", ":1:9:", "not valid YAML"),
            ("engine: eager\n\tprogress: true\n", ":2:1:", "not valid YAML"),
        ],
    )
    def test_an_error_names_file_line_and_column(self, tmp_path: Path, text: str, at: str, says: str) -> None:
        path = write_project(tmp_path, text)
        message = refusal(cwd=tmp_path)
        assert message.startswith(f"{path}{at}")
        assert says in message

    def test_a_file_that_is_not_text(self, tmp_path: Path) -> None:
        path = tmp_path / PROJECT_FILE
        path.write_bytes(b"engine: \xff\xfe\x00")
        assert refusal(cwd=tmp_path).startswith(str(path))

    def test_a_file_that_cannot_be_read(self, tmp_path: Path) -> None:
        (tmp_path / PROJECT_FILE).mkdir()
        assert "cannot be read" in refusal(cwd=tmp_path)


class TestRefused:
    def test_an_unknown_option_lists_the_known_ones(self) -> None:
        message = refusal({"engin": "eager"})
        assert message.startswith("options=: unknown option 'engin'; did you mean 'engine'? Known: engine, ")

    def test_nothing_is_near(self) -> None:
        assert "did you mean" not in refusal({"zzz": 1})

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("engine", "tpu"),
            ("engine", None),
            ("on_failure", "ignore"),
            ("regions", True),
            ("mode", "turbo"),
            ("expected_calls", 0),
            ("expected_calls", True),
            ("expected_calls", 2.0),
            ("expected_calls", "10"),
            ("regions", "auto:-0.1"),
            ("regions", "auto:1.1"),
            ("regions", "auto:nan"),
            ("regions", "auto:"),
            ("regions", "whole:0.1"),
            ("regions", "0.1"),
            ("mega_cache", 1),
            ("mega_cache", "yes"),
            ("progress", "auto"),
            ("cache_dir", ""),
            ("cache_dir", 3),
            ("cache_limit", "80"),
            ("cache_limit", 80),
            ("cache_limit", False),
            ("cache_limit", "80 GiBB"),
            ("passes", "lifetimes"),
            ("passes", [3]),
            ("passes", [Shout]),
            ("passes", [object()]),
        ],
    )
    def test_a_bad_value_says_what_is_accepted(self, name: str, value: object) -> None:
        message = refusal({name: value})
        assert message.startswith(f"options=: {name} must be {accepted(name)}, not {value!r}"[:80])
        assert "\n" not in message

    def test_every_bad_value_is_named_at_once(self) -> None:
        message = refusal({"engine": "tpu"}, environ={"DJINN_PROGRESS": "maybe"})
        assert "options=: engine" in message
        assert "DJINN_PROGRESS: progress" in message

    @pytest.mark.parametrize("options", ["engine", ["engine"], 3])
    def test_options_that_are_no_dictionary(self, options: object) -> None:
        assert "must be a dictionary" in refusal(options)

    def test_an_option_whose_name_is_no_text(self) -> None:
        assert "unknown option 3" in refusal({3: 1})

    def test_settings_are_frozen(self) -> None:
        with pytest.raises(Exception, match="frozen"):
            load().engine = "eager"  # type: ignore[misc]


class TestCostModel:
    def test_an_own_model_is_taken_as_it_is(self) -> None:
        model = Guess()
        assert load({"cost_model": model}).cost_model is model

    def test_it_is_not_written_into_kept_graphs(self) -> None:
        assert "cost_model" not in load({"cost_model": Guess()}).model_dump(mode="json")

    @pytest.mark.parametrize(
        ("value", "lacks"),
        [
            (object(), "name, a text, op, region"),
            (Nameless(), "name, a text"),
            (Guess, "Guess is a class"),
            ("datasheets", "did you mean 'datasheet'"),
            (None, "op"),
        ],
    )
    def test_what_is_none_says_what_it_lacks(self, value: object, lacks: str) -> None:
        message = refusal({"cost_model": value})
        assert message.startswith("options=: cost_model must be")
        assert lacks in message


class TestTopology:
    def test_a_section_stands_for_its_file(self, tmp_path: Path) -> None:
        (tmp_path / PROJECT_FILE).write_text("progress: false\ntopology:\n  preset: dgx-h100\n")
        settings = Settings.load(environ={}, cwd=tmp_path)
        assert settings.topology == str(tmp_path / PROJECT_FILE)
        assert settings.progress is False

    def test_a_name_is_a_name(self, tmp_path: Path) -> None:
        (tmp_path / PROJECT_FILE).write_text("topology: dgx-h100\n")
        assert Settings.load(environ={}, cwd=tmp_path).topology == "dgx-h100"


class TestDigest:
    CHANGES: tuple[dict[str, Any], ...] = (
        {"engine": "eager"},
        {"mode": "max-autotune"},
        {"regions": "whole"},
        {"expected_calls": 7},
        {"regions": "auto:0.5"},
        {"passes": ["lifetimes"]},
        {"passes": []},
        {"passes": [Shout()]},
        {"passes": [Shout(2)]},
        {"fallback_random": False},
        {"target": "sm89"},
        {"precision": "allow-bf16"},
        {"keep_weights": "packed"},
        {"precision": "allow-int8-weights"},
        {"weights": "input"},
        {"cost_model": "calibrated"},
        {"cost_model": "datasheet"},
        {"cost_model": Guess()},
        {"cost_model": Guess("other")},
        {"device": "h100-sxm"},
        {"topology": "dgx-h100"},
        {"devices": DEVICE},
        {"devices": DEVICE, "pin": {"layers": "cpu:0"}},
        {"devices": DEVICE, "device_map": {"layers": 0}},
        {"links": {}},
        {"workers": "local:2"},
        {"workers": "local:3"},
        {"worker_memory": "4GB"},
        {"objective": "throughput"},
        {"arena": True},
        {"memory_budget": {"cpu": "2GB"}},
        {"memory_budget": {"cpu": "2GB", "cuda": "8GB"}},
        {"activation_budget": "2GB"},
    )

    def test_settings_that_change_what_is_compiled_differ(self) -> None:
        digests = [load(change).digest() for change in ({}, *self.CHANGES)]
        assert len(set(digests)) == len(digests)

    @pytest.mark.parametrize(
        "change",
        [
            {"cache_limit": 0},
            {"cache_dir": "/elsewhere"},
            {"cache_limit": "1GB"},
            {"progress": True},
            {"on_failure": "raise"},
            {"check_passes": True},
            {"compile": "background"},
            {"compile_budget": "60s"},
            {"worker_timeout": "5s"},
        ],
    )
    def test_settings_that_do_not_change_it_are_equal(self, change: dict[str, Any]) -> None:
        assert load(change).digest() == load().digest()

    def test_equal_in_another_process(self) -> None:
        code = (
            "from djinn_fx.settings.table import Settings; print(Settings.load(options={'engine': 'eager'}).digest())"
        )
        environ = {**os.environ, "PYTHONHASHSEED": "7"}
        other = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
        assert other.stdout.strip() == load({"engine": "eager"}).digest()

    def test_every_setting_says_whether_it_counts(self) -> None:
        counted = {name for change in self.CHANGES for name in change}
        for name, info in Settings.model_fields.items():
            assert isinstance(info.json_schema_extra, dict)
            assert info.json_schema_extra["compiles"] is (name in counted)


class TestOldNames:
    @pytest.mark.parametrize(
        ("old", "now"),
        [
            ({"cache": False}, {"cache_limit": "0"}),
            ({"cache": False, "cache_limit": "1GB"}, {"cache_limit": "0"}),
            ({"cache": True, "cache_limit": "1GB"}, {"cache_limit": "1GB"}),
            ({"learn": False}, {"cost_model": "calibrated"}),
            ({"learn": False, "cost_model": "datasheet"}, {"cost_model": "datasheet"}),
            ({"learn": True}, {}),
            ({"max_boundary_share": 0.25}, {"regions": "auto:0.25"}),
            ({"max_boundary_share": 1e-7, "regions": "auto"}, {"regions": "auto:1e-07"}),
            ({"max_boundary_share": 0.25, "regions": "whole"}, {"regions": "whole"}),
        ],
    )
    def test_they_say_what_they_said_with_a_warning(self, old: dict[str, Any], now: dict[str, Any]) -> None:
        with pytest.warns(FutureWarning, match="options=: the setting"):
            found = load(old)
        assert found == load(now)

    def test_from_every_source(self, tmp_path: Path) -> None:
        write_project(tmp_path, "learn: no\n")
        with pytest.warns(FutureWarning) as warned:
            found = load({"cache": False}, environ={"DJINN_MAX_BOUNDARY_SHARE": "5e-1"}, cwd=tmp_path)
        assert (found.cost_model, found.max_boundary_share, found.cache) == ("calibrated", 0.5, False)
        places = ("options=:", f"{tmp_path / PROJECT_FILE}:1:8:", "environment variable DJINN_MAX_BOUNDARY_SHARE:")
        assert [str(one.message).split(" the setting")[0] for one in warned] == list(places)

    @pytest.mark.filterwarnings("ignore::FutureWarning")
    @pytest.mark.parametrize(
        ("name", "value"), [("cache", "maybe"), ("cache", None), ("learn", 1), ("max_boundary_share", 1.5)]
    )
    def test_a_bad_value_is_refused_with_its_place(self, name: str, value: object) -> None:
        assert refusal({name: value}).startswith("options=: ")

    def test_they_are_offered_to_nobody(self) -> None:
        known = refusal({"zzz": 1}).partition("Known: ")[2]
        assert not {name.strip() for name in known.split(",")} & set(OLD_TYPES)


class TestDescription:
    def test_every_row_is_filled(self) -> None:
        for name, info in Settings.model_fields.items():
            assert info.description
            assert accepted(name)
            assert facts(name)["group"] in GROUPS

    def test_groups_stand_together_in_their_order(self) -> None:
        groups = [facts(name)["group"] for name in Settings.model_fields]
        assert list(dict.fromkeys(groups)) == list(GROUPS)
        assert groups == sorted(groups, key=list(GROUPS).index)

    def test_readme_shows_six_and_the_page_all(self) -> None:
        assert table("main").count("\n") == 1 + 6
        assert all(f"| `{name}` |" in FILES["docs/settings.md"] for name in Settings.model_fields)
        assert "| `1000` |" in FILES["docs/settings.md"]

    def test_the_tables_are_current(self, repo: Path) -> None:
        generator = [sys.executable, "-m", "tools.settings_table", "--check"]
        done = subprocess.run(generator, cwd=repo, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
