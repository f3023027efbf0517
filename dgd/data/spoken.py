"""Read the Free Spoken Digit Dataset as log-mel spectrograms, with speakers held apart between training and test."""

import hashlib
import io
import lzma
import re
import tarfile
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from scipy.io import wavfile
from scipy.signal import get_window

from dgd import source_files

ARCHIVE, FOLDER = source_files.SPOKEN, source_files.RECORDINGS
ORIGIN = "github.com/Jakobovski/free-spoken-digit-dataset (CC BY-SA 4.0)"
SPEAKERS = {"train": ("george", "jackson", "lucas", "nicolas"), "test": ("theo", "yweweler")}
CLASSES = 10
TAKES = 50
"""Recordings of each digit by each speaker."""
RATE = 8000  # samples a second
BANDS = 32  # mel bands
FRAMES = 32
HOP = 200  # samples: 25 ms, so that the frames span 0.8 s, which 98 % of the recordings do not exceed
WINDOW = 512  # samples of a frame: 64 ms
FLOOR = 80.0  # dB below a recording's loudest point that count as silence

NAME = re.compile(r"(\d)_([a-z]+)_(\d+)\.wav")


def spectrogram(samples: np.ndarray) -> np.ndarray:
    """Return the log-mel spectrogram of a recording as an image: uint8 (1, BANDS, FRAMES), low bands first.

    The recording's middle 0.8 s, or all of it between silence, is brought to decibels below its loudest point: 255 there, 0 at
    `FLOOR` below it and under.

    Args:
        samples: (n,) at `RATE`, in any unit.

    Raises:
        ModuleNotFoundError: librosa is not installed.
    """
    try:
        from librosa.filters import mel
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"spectrograms need librosa, and {error.name} is not installed: pip install 'dgd-bench[pipeline]', or prepare the "
            "data set on a machine that has it"
        ) from None
    length = HOP * (FRAMES - 1)  # frames are centred on their samples, so the last one starts here
    start = max(0, (len(samples) - length) // 2)
    samples = samples[start : start + length].astype(np.float64)
    before = (length - len(samples)) // 2
    samples = np.pad(samples, (before, length - len(samples) - before))
    # In float64 throughout, so that rounding to whole numbers gives the same on every machine. The transform is numpy's:
    # librosa's gives the same images, and compiles itself for 15 s when it first runs.
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(samples, WINDOW // 2), WINDOW)[::HOP]
    spectrum = np.abs(np.fft.rfft(frames * get_window("hann", WINDOW), axis=1)).T ** 2
    power = mel(sr=RATE, n_fft=WINDOW, n_mels=BANDS, dtype=np.float64) @ spectrum
    decibels = 10 * np.log10(np.maximum(power / power.max(), 10 ** (-FLOOR / 10)))
    return np.round(255 * (1 + decibels / FLOOR)).astype(np.uint8)[None]


def read(data_dir: Path) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, str]]:
    """Return the recordings of both parts, and the SHA-256 of what they were read from.

    Args:
        data_dir: Folder that holds the archive `free-spoken-digits.tar.xz`, or `recordings/` that was extracted from it; the
            folder counts where both are there.

    Returns:
        Part -> (spectrograms, uint8 (n, 1, BANDS, FRAMES), and digits, int64 (n,)), in the order of the files' names; and
        file -> SHA-256: of the archive, or of the list of the recordings' hashes.

    Raises:
        FileNotFoundError: Neither is there.
        ValueError: A file is no such recording, or some recordings are missing.
    """
    contents, place, sha256 = _contents(data_dir)
    parts = {part: ([], []) for part in SPEAKERS}
    part_of = {speaker: part for part, speakers in SPEAKERS.items() for speaker in speakers}
    there = Counter()
    for name, content in sorted(contents.items()):
        found = NAME.fullmatch(name)
        if not found or found[2] not in part_of:
            known = ", ".join(part_of)
            raise ValueError(f"{place}: {name} is no <digit>_<speaker>_<number>.wav of the speakers {known}; take it away")
        images, labels = parts[part_of[found[2]]]
        images.append(spectrogram(_samples(content, f"{place}: {name}")))
        labels.append(int(found[1]))
        there[found[2], int(found[1])] += 1
    for speaker in part_of:
        missing = [str(digit) for digit in range(CLASSES) if not there[speaker, digit]]
        if missing:
            what = f"the speaker {speaker}" if len(missing) == CLASSES else f"{speaker}'s digit {', '.join(missing)}"
            raise ValueError(f"{place}: no recording of {what}; put all of {ORIGIN} there")
    for speaker in part_of:
        if few := [digit for digit in range(CLASSES) if there[speaker, digit] != TAKES]:
            what = f"{there[speaker, few[0]]} recordings of {speaker}'s digit {few[0]}"
            raise ValueError(f"{place}: {what}, and there should be {TAKES}; put all of {ORIGIN} there")
    return {part: (np.stack(images), np.array(labels, np.int64)) for part, (images, labels) in parts.items()}, sha256


def _contents(data_dir: Path) -> tuple[dict[str, bytes], Path, dict[str, str]]:
    """Return the bytes of each recording by its name, where they came from, and the hash of that."""
    folder, archive = data_dir / FOLDER, data_dir / ARCHIVE
    if folder.is_dir():
        found = {path.name: path.read_bytes() for path in sorted(folder.glob("*.wav")) if source_files.is_somebodys(path.name)}
        hashes = [hashlib.sha256(content).hexdigest() for content in found.values()]
        return found, folder, {f"{FOLDER}/*.wav": hashlib.sha256("\n".join(hashes).encode()).hexdigest()}
    if not archive.is_file():
        raise FileNotFoundError(
            f"{archive} is not there, nor {folder}: put an archive of the folder {FOLDER}/ of {ORIGIN} there, or the folder"
        )
    packed = archive.read_bytes()
    try:
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            members = [
                one for one in tar if one.isfile() and one.name.endswith(".wav") and Path(one.name).parent.name == FOLDER
            ]
            found = {
                Path(one.name).name: tar.extractfile(one).read()
                for one in members
                if source_files.is_somebodys(Path(one.name).name) and "__MACOSX" not in Path(one.name).parts
            }
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        reason = " ".join(str(error).split()).rstrip(":") or type(error).__name__
        raise ValueError(f"{archive} is corrupt: {reason}; put the original file there") from None
    return found, archive, {ARCHIVE: hashlib.sha256(packed).hexdigest()}


def _samples(content: bytes, name: str) -> np.ndarray:
    """Return the samples of a wav file, (n,) int16.

    Raises:
        ValueError: It cannot be read, has another rate, form or several channels, or holds no sound.
    """
    try:
        with warnings.catch_warnings():
            # Of a file that ends early it only warns; other warnings are about parts that are no sound.
            warnings.filterwarnings("error", "Reached EOF", wavfile.WavFileWarning)
            rate, samples = wavfile.read(io.BytesIO(content))
    except Exception as error:  # a broken header makes the reader raise many kinds of errors
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{name} cannot be read as wav: {reason}; put the original file there") from None
    if rate != RATE or samples.dtype != np.int16 or samples.ndim != 1:
        channels = 1 if samples.ndim == 1 else samples.shape[1]
        form = f"{rate} Hz, {samples.dtype} and {channels} channel{'s' * (channels > 1)}"
        raise ValueError(f"{name} has {form}; recordings have {RATE} Hz, int16 and 1 channel: put the original file there")
    if not samples.any():
        raise ValueError(f"{name} holds no sound; put the original file there")
    return samples
