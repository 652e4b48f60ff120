"""The training client and the retrieval service see the same pixels of the same file."""

from pathlib import Path

import numpy as np
import pytest

from dermnote_contracts.manifest import Preprocessing
from dermnote_contracts.metadata import LesionMetadata
from dermnote_imaging.decoder import BOUND_PX, fit
from dermnote_retrieval.service import Service, open_service
from dermnote_retrieval.settings import Settings
from dermnote_train.data.images import decode_fault, header_fault
from dermnote_train.data.records import Record
from dermnote_train.models import images
from tests.imaging.samples import HOSTILE, UNUSUAL

PREPROCESSING = Preprocessing(image_size=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture
def service(tmp_path: Path) -> Service:
    service = open_service(Settings(data_dir=tmp_path / "data", encoder="dummy"))
    service.items.database.close()
    return service


@pytest.mark.parametrize("name", UNUSUAL)
def test_client_and_service_see_the_same_pixels(name: str, tmp_path: Path, service: Service) -> None:
    path = tmp_path / "image"
    path.write_bytes(UNUSUAL[name])
    record = Record("a", path, "a", "NEV", LesionMetadata())

    (client,) = images.decode([record], preprocessing=PREPROCESSING).numpy()
    served = np.asarray(fit(service.decoder.decode(UNUSUAL[name]), PREPROCESSING))

    assert header_fault(path) is decode_fault(path) is None
    np.testing.assert_array_equal(client.transpose(1, 2, 0), served)


@pytest.mark.parametrize("name", HOSTILE)
def test_the_client_reports_images_that_the_service_rejects(name: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(HOSTILE[name])

    assert header_fault(path) or decode_fault(path)


def test_the_client_assumes_the_default_size_limit_of_the_service() -> None:
    assert Settings().stored_image_px == BOUND_PX
