"""Facts about each benchmark: names, size, score range, folders and source. `lmcl_core.data.benchmarks` reads them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Benchmark:
    """Facts about one benchmark."""

    name: str
    title: str
    count: int  # number of rated images; 0 if it is not known before the labels are read
    mos_range: tuple[float, float]  # lowest and highest `mos` of the official labels
    folders: tuple[str, ...]  # names of the official folder, the usual one first
    marks: tuple[str, ...]  # files and folders that identify the official folder under any name; "a|b" means a or b
    label_kind: str  # what the labels measure
    source: str  # paper, or origin of the images
    axis: str = "MOS"  # axis label for the scores
    fix: str = "unpack the archive again"  # what to do if images are missing
    label_fix: str = "use the official label file"  # what to do if scores have a wrong range or direction
    shared_source: str | None = None  # collection of the references, if another benchmark uses it too

    @property
    def folder(self) -> str:
        """Usual name of the official folder."""
        return self.folders[0]


_MOS_100 = "people's mean opinion score, 0 to 100"

# fmt: off
_ALL = (
    Benchmark("live", "LIVE", 779, (-11.77, 102.64), ("databaserelease2", "LIVE"), ("jp2k", "fastfading"),
              "people's opinion: 100 minus the realigned difference mean opinion score",
              "Sheikh, Sabir and Bovik, IEEE TIP 2006; LIVE, The University of Texas at Austin",
              axis="100 - realigned DMOS", shared_source="Kodak"),
    Benchmark("csiq", "CSIQ", 866, (0.0, 1.0), ("CSIQ",), ("dst_imgs|dst_imgs_all",),
              "people's opinion: 1 minus the difference mean opinion score",
              "Larson and Chandler, Journal of Electronic Imaging 2010",
              axis="1 - DMOS", fix="unpack dst_imgs.zip again"),
    Benchmark("tid2013", "TID2013", 3000, (0.24, 7.21), ("tid2013",),
              ("distorted_images", "mos_with_names.txt|mos.txt|mos_std.txt"), "people's mean opinion score, 0 to 9",
              "Ponomarenko et al., Signal Processing: Image Communication 2015", shared_source="Kodak"),
    Benchmark("kadid10k", "KADID-10k", 10125, (1.0, 4.93), ("kadid10k",), ("images|distorted_images", "dmos.csv"),
              "people's mean opinion score, 1 to 5, higher is better although its column is called dmos",
              "Lin, Hosu and Saupe, QoMEX 2019", axis="MOS (column dmos)"),
    Benchmark("livec", "LIVEC", 1162, (3.42, 92.43), ("ChallengeDB_release",),
              ("Images", "Data/AllMOS_release.mat|Data/AllImages_release.mat"), _MOS_100,
              "Ghadiyaram and Bovik, IEEE TIP 2016; LIVE, The University of Texas at Austin"),
    Benchmark("koniq10k", "KonIQ-10k", 10073, (3.91, 88.39), ("koniq10k", "koniq-10k"),
              ("1024x768|512x384|koniq10k_distributions_sets.csv|koniq10k_scores_and_distributions.csv",), _MOS_100,
              "Hosu, Lin, Sziranyi and Saupe, IEEE TIP 2020"),
    Benchmark("livefb", "LIVEFB", 39810, (0.0, 94.33), ("database", "FLIVE_Database", "livefb", "flive"),
              ("labels_image.csv|voc_emotic_ava|blur_dataset",), _MOS_100,
              "Ying et al., CVPR 2020 (PaQ-2-PiQ, FLIVE)", fix="download this folder of images again"),
    Benchmark("spaq", "SPAQ", 11125, (2.0, 96.0), ("SPAQ",), ("TestImage",), _MOS_100, "Fang et al., CVPR 2020"),
    Benchmark("demo", "Demo (proxy labels)", 360, (0.0, 40.0), ("demo",), ("labels.csv", "images"),
              "a PROXY: MS-SSIM in dB, not people's opinion",
              "photographs of scikit-image, scikit-learn and matplotlib, distorted here",
              axis="proxy: MS-SSIM, dB", fix="delete the folder; it is built again"),
)
# fmt: on
BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}
