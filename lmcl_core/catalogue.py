"""The catalogue: what is known of each benchmark, and which reader reads it."""

from __future__ import annotations

from dataclasses import dataclass

from .readers import Reader
from .readers_authentic import read_koniq10k, read_livec, read_livefb, read_spaq
from .readers_synthetic import read_csiq, read_demo, read_kadid10k, read_live, read_tid2013


@dataclass(frozen=True)
class Benchmark:
    """What is known of a benchmark, and its reader.

    Attributes:
        name: the name used everywhere.
        title: as printed in tables.
        folders: names of the official folder, the usual one first.
        count: number of rated images.
        mos_range: lowest and highest `mos` of the official labels, in the units of the table.
        axis: the scores' name on an axis.
        label_kind: whose opinion the labels are.
        source: paper.
        marks: what the official folder holds, by which it is known under another name; "a|b" is one of both.
        mend: what to do where images are missing.
        read: (official folder) -> Reading.
        synthetic: pictures were distorted on purpose, so that many share a reference.
        shared_source: the collection the references come from, where another benchmark uses it too; or None.
    """

    name: str
    title: str
    folders: tuple[str, ...]
    count: int
    mos_range: tuple[float, float]
    axis: str
    label_kind: str
    source: str
    marks: tuple[str, ...]
    read: Reader
    mend: str = "unpack the archive again"
    synthetic: bool = False
    shared_source: str | None = None

    @property
    def folder(self) -> str:
        """The usual name of the official folder."""
        return self.folders[0]


_LIVE = Benchmark(
    name="live",
    title="LIVE",
    folders=("databaserelease2", "LIVE"),
    count=779,
    mos_range=(-11.77, 102.64),
    axis="100 - realigned DMOS",
    label_kind="people's opinion: 100 minus the realigned difference mean opinion score",
    source="Sheikh, Sabir and Bovik, IEEE TIP 2006; LIVE, The University of Texas at Austin",
    marks=("jp2k", "fastfading"),
    read=read_live,
    synthetic=True,
    shared_source="Kodak",
)
_CSIQ = Benchmark(
    name="csiq",
    title="CSIQ",
    folders=("CSIQ",),
    count=866,
    mos_range=(0.0, 1.0),
    axis="1 - DMOS",
    label_kind="people's opinion: 1 minus the difference mean opinion score",
    source="Larson and Chandler, Journal of Electronic Imaging 2010",
    marks=("dst_imgs|dst_imgs_all",),
    mend="unpack dst_imgs.zip again",
    read=read_csiq,
    synthetic=True,
)
_TID2013 = Benchmark(
    name="tid2013",
    title="TID2013",
    folders=("tid2013",),
    count=3000,
    mos_range=(0.24, 7.21),
    axis="MOS",
    label_kind="people's mean opinion score, 0 to 9",
    source="Ponomarenko et al., Signal Processing: Image Communication 2015",
    marks=("distorted_images", "mos_with_names.txt|mos.txt|mos_std.txt"),
    read=read_tid2013,
    synthetic=True,
    shared_source="Kodak",
)
_KADID10K = Benchmark(
    name="kadid10k",
    title="KADID-10k",
    folders=("kadid10k",),
    count=10125,
    mos_range=(1.0, 4.93),
    axis="MOS (column dmos)",
    label_kind="people's mean opinion score, 1 to 5, higher is better although its column is called dmos",
    source="Lin, Hosu and Saupe, QoMEX 2019",
    marks=("images|distorted_images", "dmos.csv"),
    read=read_kadid10k,
    synthetic=True,
)
_LIVEC = Benchmark(
    name="livec",
    title="LIVEC",
    folders=("ChallengeDB_release",),
    count=1162,
    mos_range=(3.42, 92.43),
    axis="MOS",
    label_kind="people's mean opinion score, 0 to 100",
    source="Ghadiyaram and Bovik, IEEE TIP 2016; LIVE, The University of Texas at Austin",
    marks=("Images", "Data/AllMOS_release.mat|Data/AllImages_release.mat"),
    read=read_livec,
)
_KONIQ10K = Benchmark(
    name="koniq10k",
    title="KonIQ-10k",
    folders=("koniq10k", "koniq-10k"),
    count=10073,
    mos_range=(3.91, 88.39),
    axis="MOS",
    label_kind="people's mean opinion score, 0 to 100",
    source="Hosu, Lin, Sziranyi and Saupe, IEEE TIP 2020",
    marks=("1024x768|512x384|koniq10k_distributions_sets.csv|koniq10k_scores_and_distributions.csv",),
    read=read_koniq10k,
)
_LIVEFB = Benchmark(
    name="livefb",
    title="LIVEFB",
    folders=("database", "FLIVE_Database", "livefb", "flive"),
    count=39810,
    mos_range=(0.0, 94.33),
    axis="MOS",
    label_kind="people's mean opinion score, 0 to 100",
    source="Ying et al., CVPR 2020 (PaQ-2-PiQ, FLIVE)",
    marks=("labels_image.csv|voc_emotic_ava|blur_dataset",),
    mend="fetch its folder of pictures again",
    read=read_livefb,
)
_SPAQ = Benchmark(
    name="spaq",
    title="SPAQ",
    folders=("SPAQ",),
    count=11125,
    mos_range=(2.0, 96.0),
    axis="MOS",
    label_kind="people's mean opinion score, 0 to 100",
    source="Fang et al., CVPR 2020",
    marks=("TestImage",),
    read=read_spaq,
)
_DEMO = Benchmark(
    name="demo",
    title="Demo (proxy labels)",
    folders=("demo",),
    count=360,
    mos_range=(0.0, 40.0),
    axis="proxy: MS-SSIM, dB",
    label_kind="a PROXY: MS-SSIM in dB, not people's opinion",
    source="photographs of scikit-image, scikit-learn and matplotlib, distorted here",
    marks=("labels.csv", "images"),
    mend="delete the folder, it is built again",
    read=read_demo,
    synthetic=True,
)
_ALL = (_LIVE, _CSIQ, _TID2013, _KADID10K, _LIVEC, _KONIQ10K, _LIVEFB, _SPAQ, _DEMO)
BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}
