"""The whole service, as `rsna-e2e serve` runs it: what is sent is predicted, shown, and comes to no harm."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from documents import ROOT, Document
from services import Service, wait_for, write_study

from rsna_e2e.store import Store

pytestmark = pytest.mark.needs_serve

QUICK = "quiet_s: 0.3\nlease_s: 2.0\nretry_s: [0.1]\nattempts: 1000\nlimits: {free_bytes: 0}\n"


@pytest.fixture(scope="module")
def service(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with one model that many tests ask."""
    made = Service(tmp_path_factory.mktemp("service") / "data", bundle, settings=QUICK)
    made.start()
    made.wait_until_ready()
    yield made
    assert made.stop() == 0


def _zipped(paths: list[Path]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in paths:
            archive.write(path, path.name)
    return content.getvalue()


def _problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def test_a_zip_archive_is_predicted_while_its_sender_waits(service: Service, tmp_path: Path) -> None:
    body = _zipped(write_study(tmp_path, 1, 5))
    answer = service.client.post(
        "/api/v1/studies", params={"wait": 60}, content=body, headers={"Content-Type": "application/zip"}
    )
    assert answer.status_code == 200
    ((study),) = answer.json()["studies"]
    assert (study["state"], answer.json()["refused"]) == ("done", {})
    found = service.client.get(study["url"]).json()
    assert (found["n_files"], found["n_slices"], found["state"]) == (5, 5, "done")
    assert found["identity"]["patient_id"] == "p1"
    result = service.client.get(f"{study['url']}/result").json()
    assert result["study"] == study["study"]
    assert len(result["series"][0]["probability"]) == 5
    assert found["sentence"] == result["sentence"]


def test_a_form_of_files_and_of_others_is_taken_file_by_file(service: Service, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    answer = service.send([*write_study(tmp_path, 2, 2), *write_study(tmp_path, 3, 1), tmp_path / "notes.txt"], wait=60)
    assert answer.status_code == 200
    assert [study["state"] for study in answer.json()["studies"]] == ["done", "done"]
    assert answer.json()["refused"] == {"not_dicom": 1}


def test_single_files_are_put_together(service: Service, tmp_path: Path) -> None:
    for path in write_study(tmp_path, 4, 3):
        answer = service.client.post("/api/v1/studies", params={"whole": False}, content=path.read_bytes())
        assert answer.status_code == 202
    (study,) = answer.json()["studies"]
    found = service.client.get(study["url"], params={"wait": 60}).json()
    assert (found["state"], found["n_slices"]) == ("done", 3)


def test_an_upload_goes_file_by_file_and_again(service: Service, tmp_path: Path) -> None:
    upload = service.client.post("/api/v1/uploads").json()["upload"]
    paths = write_study(tmp_path, 5, 3)
    for _ in range(2):
        for number, path in enumerate(paths):
            answer = service.client.put(f"/api/v1/uploads/{upload}/files/{number}", content=path.read_bytes())
            assert answer.status_code == 200
    refused = service.client.put(f"/api/v1/uploads/{upload}/files/9", content=b"no image")
    assert _problem(refused) == (422, "refused_file")
    assert refused.json()["detail"] == "not_dicom"
    empty = service.client.put(f"/api/v1/uploads/{upload}/files/10", content=b"")
    assert (_problem(empty), empty.json()["detail"]) == ((422, "refused_file"), "empty_file")
    answer = service.client.post(f"/api/v1/uploads/{upload}/complete", params={"wait": 60})
    assert answer.json()["refused"] == {"not_dicom": 1}
    assert [study["state"] for study in answer.json()["studies"]] == ["done"]
    assert _problem(service.client.post(f"/api/v1/uploads/{upload}/complete")) == (404, "not_found")


def test_so_many_uploads_are_open_at_once(service: Service) -> None:
    opened = [service.client.post("/api/v1/uploads") for _ in range(5)]
    assert [answer.status_code for answer in opened] == [201] * 4 + [429]
    assert "retry-after" in opened[-1].headers
    for answer in opened[:4]:
        service.client.post(f"/api/v1/uploads/{answer.json()['upload']}/complete")


def test_slices_maps_and_pictures_are_those_of_the_store(service: Service, tmp_path: Path) -> None:
    (study,) = service.send(write_study(tmp_path, 6, 3), wait=60).json()["studies"]
    wait_for(lambda: service.client.get(study["url"]).json()["pictures"] == "done")
    found = service.client.get(study["url"]).json()
    result = service.client.get(f"{study['url']}/result").json()
    key = result["series"][0]["key"]
    folder = service.data / "studies" / study["study"] / f"{found['content']}-{result['model']['identity']}"
    store = Store.open(folder / "store")
    url = f"{study['url']}/series/{key}"
    of_result = {"content": found["content"], "model": result["model"]["identity"]}
    series = service.client.get(url).json()
    for place in range(3):
        answer = service.client.get(f"{url}/slices/{place}", params=of_result)
        values = np.frombuffer(answer.content, dtype="<i2").reshape(series["rows"], series["columns"])
        np.testing.assert_array_equal(values, store.read_slice(place))
        assert "immutable" in answer.headers["cache-control"]
    assert service.client.get(f"{url}/slices/0").headers["cache-control"] == "no-store"
    assert _problem(service.client.get(f"{url}/slices/3")) == (404, "not_found")
    store.close()
    for label, size in series["heatmaps"].items():
        answer = service.client.get(f"{url}/heatmaps/{label}/2")
        assert len(answer.content) == size["height"] * size["width"]
        assert len(answer.headers["x-affine"].split(",")) == 6
        assert _problem(service.client.get(f"{url}/heatmaps/{label}/3")) == (404, "not_found")
    assert _problem(service.client.get(f"{url}/heatmaps/nothing/0")) == (404, "not_found")
    shown = next(label for label in result["labels"] if label["name"] in series["heatmaps"])
    place = shown["key_slices"][0]["place"]
    for marks in ("", "map"):
        parameters = {"label": shown["name"], "marks": marks}
        answer = service.client.get(f"{url}/pictures/{place}.png", params=parameters)
        assert answer.content.startswith(b"\x89PNG")
    assert _problem(service.client.get(f"{url}/pictures/{place}.png", params={"label": "../x"}))[0] == 422
    report = service.client.get(f"{study['url']}/report.html")
    assert result["study"] in report.text
    assert "sandbox" in report.headers["content-security-policy"]


def test_lists_wait_for_changes(service: Service, tmp_path: Path) -> None:
    version = service.client.get("/api/v1/studies").json()["version"]
    assert service.client.get("/api/v1/studies", params={"after": version, "wait": 0.3}).json()["version"] == version
    (study,) = service.send(write_study(tmp_path, 7, 1)).json()["studies"]
    page = service.client.get("/api/v1/studies", params={"after": version, "wait": 60}).json()
    assert page["version"] > version
    assert study["study"] in [item["study"] for item in page["items"]]


def test_a_study_can_be_tried_again_and_deleted(service: Service, tmp_path: Path) -> None:
    (study,) = service.send(write_study(tmp_path, 8, 1), wait=60).json()["studies"]
    assert service.client.post(f"{study['url']}/retry").status_code == 202
    assert service.client.get(study["url"], params={"wait": 60}).json()["state"] == "done"
    assert service.client.delete(study["url"]).status_code == 204
    for answer in (service.client.get(study["url"]), service.client.delete(study["url"])):
        assert _problem(answer) == (404, "not_found")
    assert not (service.data / "studies" / study["study"]).exists()
    assert not (service.data / "inbox" / study["study"]).exists()


def test_it_tells_of_its_models_its_numbers_and_its_interface(service: Service) -> None:
    (model,) = service.client.get("/api/v1/models").json()
    assert (model["name"], model["version"], model["task"]) == ("small", "1.0", "ich")
    card = service.client.get(f"/api/v1/models/{model['identity']}/card")
    assert card.headers["content-type"].startswith("text/markdown")
    assert "# small 1.0" in card.text
    numbers = service.client.get("/metrics").text
    assert 'rsna_e2e_studies{state="done"}' in numbers
    assert "rsna_e2e_workers 1.0" in numbers
    document = service.client.get("/api/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert "/api/v1/studies/{study}/result" in document["paths"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_example_of_the_page_is_answered(service: Service, tmp_path: Path) -> None:
    """The block 'ask' of serving.md, by the shell."""
    (block,) = (block for block in Document.read("docs/serving.md").blocks if block.marker == "ask")
    one, two = write_study(tmp_path, 9, 2)
    (tmp_path / "study.zip").write_bytes(_zipped([one, two]))
    one.rename(tmp_path / "one.dcm")
    two.rename(tmp_path / "two.dcm")
    program = tmp_path / "rsna-e2e"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rsna_e2e.cli "$@"\n')
    program.chmod(0o755)
    text = block.text.replace("http://127.0.0.1:8600", str(service.client.base_url).rstrip("/"))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text.replace("--data service", f"--data {service.data}")],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=True,
    )
    zipped, form, listed = (json.loads(answer) for answer in done.stdout.replace("}{", "}\n{").splitlines())
    assert [study["state"] for study in zipped["studies"]] == ["done"]
    assert form["studies"] == zipped["studies"]  # sent before: nothing changes
    assert zipped["studies"][0]["study"] in [item["study"] for item in listed["items"]]


def test_pages_are_for_who_logged_in(service: Service) -> None:
    with httpx.Client(base_url=service.client.base_url) as stranger:
        assert stranger.get("/").headers["location"] == "/login"
        assert "password" in stranger.get("/login").text
        assert "--slices" in stranger.get("/static/theme.css").text
        assert stranger.get("/static/app.js").headers["content-type"].startswith("text/javascript")
        for name in ("..%2fapp.py", "%2e%2e", "nothing.js"):
            assert _problem(stranger.get(f"/static/{name}"))[0] == 404
    assert "<title>" in service.client.get("/").text


def test_what_cannot_be_taken_is_refused_in_words(service: Service, tmp_path: Path) -> None:
    post = service.client.post
    assert _problem(post("/api/v1/studies", content=b"no image")) == (422, "nothing_taken")
    assert _problem(post("/api/v1/studies", content=b"")) == (422, "nothing_taken")
    assert _problem(post("/api/v1/studies", content=b"PK\3\4" + bytes(50))) == (422, "damaged_archive")
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    assert _problem(post("/api/v1/studies", content=b"--x\r\n\r\nhalf", headers=form)) == (400, "bad_form")
    assert _problem(post("/api/v1/studies", content=b"no form", headers=form)) == (400, "bad_form")
    assert not any((service.data / "tmp").iterdir())


@pytest.mark.parametrize("word", ["../../etc", "%2e%2e%2f", "%00", "a" * 10_000, "0123456789ABCDEF", "<b>"])
def test_no_key_leads_out_of_the_data(service: Service, word: str) -> None:
    good = "0" * 16
    for path in (
        f"studies/{word}",
        f"studies/{word}/result",
        f"studies/{good}/series/{word}",
        f"studies/{good}/series/{good}/slices/{word}",
        f"studies/{good}/series/{good}/heatmaps/{word}/0",
        f"studies/{good}/result?content={word}",
        f"studies/{good}/result?model={word}",
    ):
        answer = service.client.get(f"/api/v1/{path}")
        assert answer.status_code in (404, 422), path
        assert word not in answer.text


def test_who_waits_for_changes_does_not_hold_up_the_end(bundle: Path, tmp_path: Path) -> None:
    service = Service(tmp_path / "data", bundle, settings=QUICK)
    service.start()
    service.wait_until_ready()
    asked = {"url": f"{service.client.base_url}/api/v1/studies", "headers": service.client.headers, "timeout": 60.0}
    version = httpx.get(**asked).json()["version"]
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(httpx.get, **asked, params={"after": version, "wait": 50})
        time.sleep(1.0)  # for it to be there; if it is late, this tests less
        assert not waiting.done()
        assert service.stop() == 0
        assert waiting.result().json()["version"] == version
    assert '"level": "error"' not in service.said.read_text()


def test_stopping_leaves_nothing_running_and_nothing_half_done(bundle: Path, tmp_path: Path) -> None:
    service = Service(tmp_path / "data", bundle, settings=QUICK)
    service.start()
    (study,) = service.send(write_study(tmp_path, 1, 3)).json()["studies"]
    assert service.stop(signal.SIGINT) == 0
    service.start()
    assert service.client.get(study["url"], params={"wait": 60}).json()["state"] == "done"
    second = Service(service.data, bundle)
    with pytest.raises(StopIteration):
        second.start()
    assert "a service runs with these data" in second.said.read_text()
    second.process.wait()
    second.process.stdout.close()
    assert service.stop() == 0
    assert not any((service.data / "tmp").iterdir())
    assert oct(service.data.stat().st_mode)[-3:] == "700"
