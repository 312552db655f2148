"""Fit, validate, checkpoint, resume: from raw images to a run folder.

A run folder holds ``recipe.toml`` (all settings), ``images.json`` (what was read), ``history.csv``,
``previews/``, ``checkpoints/`` and, once training has ended, ``weights.pt`` and ``run.json``.
An epoch is the unit that is never half kept: a run that was killed goes on from the end of the
last whole epoch and, on the same machine, ends with the weights it would have had.
"""

from __future__ import annotations

__all__ = ["TrainingProgress", "recalibrate", "train_run"]

import csv
import io
import json
import logging
import math
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from matplotlib.image import imsave
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from deepcontrast_bmz import __version__
from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image import (
    check_pixels,
    image_sha256,
    pixel_size_um,
    read_image,
    replace_whole,
    select_channel,
)
from deepcontrast_bmz.model.devices import choose_device
from deepcontrast_bmz.model.loop import Loop, crop
from deepcontrast_bmz.model.run_folder import read_run
from deepcontrast_bmz.physics.scatter import widths_in_pixels
from deepcontrast_bmz.progress import TrainingProgress
from deepcontrast_bmz.records import ImageRecord, RunRecord
from deepcontrast_bmz.settings import Recipe, read_recipe, recipe_to_toml
from deepcontrast_bmz.train.calibrate import fit_statistics
from deepcontrast_bmz.train.distributed import Spread, is_first_process, trainer_arguments
from deepcontrast_bmz.train.large_images import excerpts_of, excerpts_sha256
from deepcontrast_bmz.train.pairs import (
    Pair,
    PairDataset,
    RawPlane,
    phantom_planes,
    planes_of,
    split_planes,
    stacks_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


logger = logging.getLogger(__name__)

TRAINING, VALIDATION = 0, 1
"""Streams of random numbers."""


def train_run(
    paths: Sequence[Path],
    out: Path,
    recipe: Recipe | None = None,
    *,
    device: str = "auto",
    spread: Spread | None = None,
    resume: bool = False,
    report: Callable[[TrainingProgress], None] | None = None,
) -> RunRecord:
    """Train on raw images and write a run folder.

    Parameters
    ----------
    paths : sequence of Path
        Raw images; with `resume` they may be left out.
    out : Path
        The run folder, new, or with `resume` one that was begun.
    recipe : Recipe, optional
        All settings; the defaults if left out, or with `resume` the recipe of the run.
    device : {'auto', 'cpu', 'cuda', 'mps'}
        Where to train.
    spread : Spread, optional
        Over how many devices, nodes and pieces, and how precisely; one of each if left out. With
        several processes, Lightning starts the running program anew for each of them on this
        node; they end when training does, and only the first returns.
    resume : bool
        Go on from the last whole epoch.
    report : callable, optional
        Called after every step.

    Returns
    -------
    RunRecord
        What ``run.json`` holds.

    Raises
    ------
    InputError
        If an image, the recipe, the folder or the device cannot be used, or the loss stops
        being a number.
    """
    chosen = choose_device(device)
    spread = spread if spread is not None else Spread()
    first = is_first_process()
    if resume:
        paths, recipe = _begun(out, paths, recipe)
    else:
        recipe = recipe if recipe is not None else Recipe()
        if first and out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(
                f"a new run needs a new or empty folder, but {out} holds something: "
                "give another folder, or --resume to go on with a run"
            )
    if not paths:
        raise InputError("training needs at least one image, but none was given: name the images")
    spread.piece(recipe.training.batch)
    placement = trainer_arguments(spread, chosen)
    found, records = _read_planes(paths, recipe)
    found_training, found_validation = split_planes(
        found, recipe.data.validation_fraction, recipe.seed
    )
    records = _mark_use(records, found_training, found_validation)
    found_training += phantom_planes(recipe, len(paths))
    if resume:
        _same_images(out, records)
    elif first:
        _begin(out, paths, records, recipe)

    torch.manual_seed(recipe.seed)
    module = _Training(recipe, spread, out, found_training, found_validation, report)
    started = time.monotonic()
    _fit(module, out, placement, resume=resume)
    if not first:
        raise SystemExit
    return _finish(module, out, chosen, records, time.monotonic() - started)


def _begun(
    out: Path, paths: Sequence[Path], recipe: Recipe | None
) -> tuple[Sequence[Path], Recipe]:
    """Return images and recipe of a run that was begun, checked against what was given."""
    if not (out / "recipe.toml").is_file() or not (out / "images.json").is_file():
        raise InputError(
            f"--resume needs a run that was begun, but {out} holds no recipe.toml and "
            "images.json: leave out --resume, or name the run folder"
        )
    if (out / "run.json").is_file():
        raise InputError(f"--resume needs an unfinished run, but {out} has ended: use it as it is")
    recorded = read_recipe(out / "recipe.toml")
    if recipe is not None and recipe != recorded:
        raise InputError(
            f"a resumed run keeps its recipe, but the one given differs from {out}/recipe.toml: "
            "leave out --recipe"
        )
    if not paths:
        stored = json.loads((out / "images.json").read_text(encoding="utf-8"))
        paths = [Path(entry["path"]) for entry in stored]
    return paths, recorded


def _read_planes(paths: Sequence[Path], recipe: Recipe) -> tuple[list[RawPlane], list[ImageRecord]]:
    found: list[RawPlane] = []
    records: list[ImageRecord] = []
    for number, path in enumerate(paths):
        image = select_channel(read_image(path), recipe.data.channel)
        size = pixel_size_um(image)
        widths = widths_in_pixels(recipe.physics.scatter, size)
        fewest = recipe.data.patch_planes if recipe.network.dims == 3 else None
        if image.chunks is not None:
            seed = recipe.seed
            own = excerpts_of(image, number, path.name, widths, seed=seed, planes=fewest)
            sha256 = excerpts_sha256(image, own)
        else:
            check_pixels(image, path.name)
            if fewest is None:
                own = planes_of(image, number, path.name, widths)
            else:
                own = stacks_of(image, number, path.name, widths, fewest=fewest)
            sha256 = image_sha256(path)
        found += own
        records.append(
            ImageRecord(
                name=path.name,
                sha256=sha256,
                dims="".join(str(dim) for dim in image.dims),
                shape=tuple(image.shape),
                pixel_size_um=size,
            )
        )
    return found, records


def _mark_use(
    records: Sequence[ImageRecord], training: Iterable[RawPlane], validation: Iterable[RawPlane]
) -> list[ImageRecord]:
    """Write into each record what its image was used for."""
    trained = {plane.image for plane in training}
    validated = {plane.image for plane in validation}
    marked: list[ImageRecord] = []
    for number, record in enumerate(records):
        use = "validation" if number in validated else "training"
        if number in trained and number in validated:
            use = "both"
        marked.append(record.model_copy(update={"used_for": use}))
    return marked


def _begin(
    out: Path, paths: Sequence[Path], records: Sequence[ImageRecord], recipe: Recipe
) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "recipe.toml").write_text(recipe_to_toml(recipe), encoding="utf-8")
        entries = [
            {"path": str(path.absolute()), **record.model_dump()}
            for path, record in zip(paths, records, strict=True)
        ]
        (out / "images.json").write_text(json.dumps(entries, indent=1), encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"the run folder must be writable, but {out} is not ({error.strerror}): give another"
        ) from error


def _same_images(out: Path, records: Sequence[ImageRecord]) -> None:
    stored = json.loads((out / "images.json").read_text(encoding="utf-8"))
    if [entry["sha256"] for entry in stored] != [record.sha256 for record in records]:
        raise InputError(
            f"a resumed run needs the images it began with, but they differ from those in "
            f"{out}/images.json: give the same images in the same order, or start a new run"
        )


class _Training(pl.LightningModule):
    """The loop under training, with its data."""

    def __init__(
        self,
        recipe: Recipe,
        spread: Spread,
        out: Path,
        training: Sequence[RawPlane],
        validation: Sequence[RawPlane],
        report: Callable[[TrainingProgress], None] | None,
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.spread = spread
        self.out = out
        self.loop = self._new_loop()
        self.planes = [*training, *validation]
        settings = recipe.training
        self.pairs = PairDataset(
            training,
            recipe,
            radius=self.loop.radius,
            planes=self.loop.radii[0] if self.loop.dims == 3 else 0,
            length=settings.steps * settings.batch,
            stream=TRAINING,
        )
        self.held_out = PairDataset(
            validation,
            recipe,
            radius=self.loop.radius,
            planes=self.loop.radii[0] if self.loop.dims == 3 else 0,
            length=settings.validation_patches,
            stream=VALIDATION,
        )
        self.report = report
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Tensor] = {}
        self.best_scores: dict[str, float] = {}
        self.seconds_before = 0.0
        self.recent: list[float] = []
        self.begun_at = time.monotonic()
        self.first_step = 0

    def _new_loop(self) -> Loop:
        return Loop.from_recipe(self.recipe)

    # ---- data

    def train_dataloader(self) -> DataLoader[Pair]:
        """Return the patches of the present epoch."""
        settings = self.recipe.training
        first = self.current_epoch * settings.steps_per_epoch
        steps = range(first, min(first + settings.steps_per_epoch, settings.steps))
        return DataLoader(
            Subset(self.pairs, self.spread.share(steps, settings.batch, self.global_rank)),
            batch_size=self.spread.piece(settings.batch),
            num_workers=self._workers(),
        )

    def val_dataloader(self) -> DataLoader[Pair]:
        """Return the held-out patches, the same in every epoch and every process."""
        return DataLoader(
            self.held_out,
            batch_size=self.spread.piece(self.recipe.training.batch),
            num_workers=self._workers(),
        )

    def _workers(self) -> int:
        # On a GPU the patches are drawn beside the training; on a CPU they would only compete.
        if self.device.type != "cuda":
            return 0
        return max(1, min(12, (torch.get_num_threads() or 2) - 1))

    # ---- optimisation

    def configure_optimizers(self) -> Any:
        """Adam under a one-cycle learning rate."""
        settings = self.recipe.training
        optimizer = torch.optim.Adam(self.loop.parameters(), lr=settings.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings.learning_rate, total_steps=settings.steps + 1, pct_start=0.1
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _restore(self, batch: Pair) -> tuple[Tensor, Tensor]:
        """Return (restored, raw), both shifted and scaled so that raw patches weigh alike.

        The network commutes with that map, or normalises by itself; half precision would lose
        the signal beside a large camera offset otherwise.
        """
        raw = batch["raw"]
        shift = batch["degraded"].mean(dim=_all_but_batch(raw), keepdim=True)
        scale = batch["scale"]
        steps = int(batch["steps"][0])
        restored = self.loop.iterate((batch["degraded"] - shift) / scale, steps)[:, -1:]
        return restored, (raw - shift) / scale

    def training_step(self, batch: Pair, _index: int) -> Tensor:
        """Mean absolute difference between the raw patch and the restored one."""
        restored, raw = self._restore(batch)
        loss = (restored.float() - raw).abs().mean()
        finite = bool(torch.isfinite(loss))
        if self.spread.processes > 1:
            # All stop together, lest one waits for the others.
            finite = self.trainer.strategy.reduce_boolean_decision(finite)
        if not finite:
            raise InputError(
                f"training diverged at step {self.global_step}: "
                f"lower training.learning_rate (now {self.recipe.training.learning_rate:g})"
            )
        self.recent = [*self.recent[-49:], float(loss.detach())]
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Tell the caller where the run stands."""
        whole = (batch_idx + 1) % self.spread.accumulate == 0
        if self.report is None or not whole or not self.trainer.is_global_zero:
            return
        done, steps = self.global_step, self.recipe.training.steps
        each = (time.monotonic() - self.begun_at) / max(done - self.first_step, 1)
        self.report(
            TrainingProgress(
                step=done,
                steps=steps,
                loss=float(np.mean(self.recent)),
                validation_loss=self.history[-1]["validation_loss"] if self.history else None,
                seconds_left=each * (steps - done),
                patches_per_second=self.recipe.training.batch / max(each, 1e-9),
            )
        )

    def on_train_start(self) -> None:
        """Begin the clock."""
        self.begun_at = time.monotonic()
        self.first_step = self.global_step

    # ---- validation

    def on_validation_epoch_start(self) -> None:
        """Begin a new set of scores."""
        self._scores: list[tuple[float, float, float]] = []

    def validation_step(self, batch: Pair, index: int) -> None:
        """Score held-out patches; the first batch becomes the preview."""
        restored, raw = self._restore(batch)
        restored = restored.float()
        inner = _all_but_batch(raw)
        degraded = crop(batch["degraded"], self.loop.margins(int(batch["steps"][0])))
        span = (raw.amax(dim=inner) - raw.amin(dim=inner)).clamp_min(1e-6)
        before = ((degraded - batch["raw"]) / batch["scale"]).square().mean(dim=inner)
        after = (restored - raw).square().mean(dim=inner)
        for loss, was, now in zip(
            (restored - raw).abs().mean(dim=inner),
            _decibel(span**2 / before),
            _decibel(span**2 / after),
            strict=True,
        ):
            self._scores.append((float(loss), float(was), float(now)))
        if index == 0 and self.trainer.is_global_zero and not self.trainer.sanity_checking:
            enhanced = self.loop.iterate(batch["degraded"], int(batch["steps"][0]))[:, -1:]
            self._preview(*(_middle_plane(x) for x in (degraded, enhanced, batch["raw"])))

    def _preview(self, degraded: Tensor, restored: Tensor, raw: Tensor) -> None:
        """Write rows of (degraded, restored, raw), each row on the grey scale of its raw patch."""
        rows: list[np.ndarray[Any, Any]] = []
        for images in zip(degraded, restored, raw, strict=True):
            low, high = np.percentile(images[2].cpu().numpy(), (0.5, 99.8))
            grey = [
                (image.float().cpu().numpy() - low) / max(high - low, 1e-12) for image in images
            ]
            rows.append(np.concatenate(grey, axis=1))
        folder = self.out / "previews"
        folder.mkdir(exist_ok=True)
        with replace_whole(folder / f"epoch_{self.current_epoch + 1:04d}.png") as path:
            picture = np.clip(np.concatenate(rows), 0, 1)
            imsave(str(path), picture, cmap="gray", vmin=0, vmax=1, format="png")

    def on_validation_epoch_end(self) -> None:
        """Keep the scores, and the weights if they are the best so far."""
        loss, degraded, restored = (float(v) for v in np.mean(self._scores, axis=0))
        scores = {"loss": loss, "psnr_degraded": degraded, "psnr_restored": restored}
        recent = float(np.mean(self.recent)) if self.recent else math.nan
        if self.spread.processes > 1:
            own = torch.tensor(recent, device=self.device)
            recent = float(cast("Tensor", self.trainer.strategy.reduce(own, reduce_op="mean")))
        self.history.append(
            {
                "epoch": self.current_epoch + 1,
                "step": self.global_step,
                "training_loss": recent,
                "validation_loss": loss,
                "psnr_degraded": degraded,
                "psnr_restored": restored,
            }
        )
        if not self.best_scores or loss < self.best_scores["loss"]:
            self.best_scores = scores
            self.best = {
                name: value.detach().cpu().clone() for name, value in self.loop.state_dict().items()
            }
        if not self.trainer.is_global_zero:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, self.history[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        with replace_whole(self.out / "history.csv") as path:
            path.write_text(text.getvalue(), encoding="utf-8")
        logger.info("epoch %d: %s", self.current_epoch + 1, scores)

    # ---- what a checkpoint carries beside Lightning's own

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add history and best weights: plain numbers and tensors, loadable with weights_only."""
        elapsed = self.seconds_before + time.monotonic() - self.begun_at
        checkpoint["dcbmz"] = {
            "history": self.history,
            "best": self.best,
            "best_scores": self.best_scores,
            "recent": self.recent,
            "seconds": elapsed,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them back."""
        kept = checkpoint["dcbmz"]
        self.history = kept["history"]
        self.best = kept["best"]
        self.best_scores = kept["best_scores"]
        self.recent = kept["recent"]
        self.seconds_before = kept["seconds"]


def _all_but_batch(x: Tensor) -> tuple[int, ...]:
    return tuple(range(1, x.dim()))


def _middle_plane(x: Tensor) -> Tensor:
    """Return (B, Y, X) of patches (B, 1, Y, X) or (B, 1, Z, Y, X)."""
    return x[:, 0, x.shape[2] // 2] if x.dim() == 5 else x[:, 0]


def _decibel(ratio: Tensor) -> Tensor:
    return 10 * torch.log10(ratio.clamp_min(1e-12))


def _newest_checkpoint(out: Path) -> Path | None:
    """Return the newest checkpoint that can be read; a killed run may leave a broken one."""
    for path in sorted((out / "checkpoints").glob("epoch-*.ckpt"), reverse=True):
        try:
            torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch names no common base class for a broken file
            logger.warning("checkpoint %s cannot be read (%s); taking the one before", path, error)
            continue
        return path
    return None


def _fit(module: _Training, out: Path, placement: dict[str, Any], *, resume: bool) -> None:
    """Run Lightning's trainer, quietly."""
    settings = module.recipe.training
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    checkpoints = ModelCheckpoint(
        dirpath=out / "checkpoints",
        filename="epoch-{epoch:05d}",
        auto_insert_metric_name=False,
        monitor="epoch",
        mode="max",
        save_top_k=2,
        save_on_train_epoch_end=True,
    )
    with warnings.catch_warnings():
        # No logger and few workers are meant; the rest of Lightning's warnings stay.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*`tensorboardX`.*")
        warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
        warnings.filterwarnings("ignore", message=".*You are trying to `self.log.*")
        warnings.filterwarnings(
            "ignore", message=".*Checkpoint directory .* exists and is not empty.*"
        )
        trainer = pl.Trainer(
            **placement,
            max_steps=settings.steps,
            max_epochs=-1,
            reload_dataloaders_every_n_epochs=1,
            gradient_clip_val=settings.gradient_clip,
            callbacks=[checkpoints],
            default_root_dir=out,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        checkpoint = _newest_checkpoint(out) if resume else None
        try:
            trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
        except SystemExit as error:
            # Lightning turns Ctrl-C into an exit of its own.
            raise KeyboardInterrupt from error


def _finish(
    module: _Training, out: Path, device: str, records: Sequence[ImageRecord], seconds: float
) -> RunRecord:
    """Write weights and record; the record comes last, so its presence means a whole run."""
    with replace_whole(out / "weights.pt") as path:
        torch.save(module.best, path)
    module.loop.load_state_dict(module.best)
    parameters = sum(p.numel() for p in cast("Iterable[Tensor]", module.loop.parameters()))
    loop = module.loop.cpu().eval()
    statistics = fit_statistics(loop, module.recipe, module.planes)
    record = RunRecord(
        version=__version__,
        torch_version=torch.__version__,
        finished_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        device=device,
        training_seconds=round(module.seconds_before + seconds, 1),
        steps=module.global_step,
        parameters=parameters,
        images=tuple(records),
        phantoms=module.recipe.data.phantoms,
        validation=module.best_scores,
        depth=statistics.depth,
        ood=statistics.ood,
    )
    with replace_whole(out / "run.json") as path:
        path.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return record


def recalibrate(folder: Path, paths: Sequence[Path] = ()) -> RunRecord:
    """Fit everything that is fitted after training again, for a run that has ended.

    The network stays as it is; ``run.json`` gets the estimator of optical depth and the
    out-of-distribution statistics.

    Parameters
    ----------
    folder : Path
        Run folder.
    paths : sequence of Path
        The images it was trained on; where ``images.json`` says they lie, if left out.

    Returns
    -------
    RunRecord
        What ``run.json`` now holds.

    Raises
    ------
    InputError
        If the run has not ended, or its images are not there any more or have changed.
    """
    recipe, record, loop = read_run(folder)
    stored = json.loads((folder / "images.json").read_text(encoding="utf-8"))
    found, records = _read_planes(paths or [Path(entry["path"]) for entry in stored], recipe)
    _same_images(folder, records)
    loop = loop.eval()
    training, validation = split_planes(found, recipe.data.validation_fraction, recipe.seed)
    training += phantom_planes(recipe, len(stored))
    statistics = fit_statistics(loop, recipe, [*training, *validation])
    record = record.model_copy(
        update={
            "depth": statistics.depth,
            "ood": statistics.ood,
        }
    )
    with replace_whole(folder / "run.json") as path:
        path.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return record
