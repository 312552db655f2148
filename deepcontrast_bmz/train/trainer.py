"""The loop under training: its data, loss, validation and checkpoints, and Lightning's trainer."""

from __future__ import annotations

__all__ = ["Training", "fit"]

import csv
import io
import logging
import math
import time
import warnings
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from matplotlib.image import imsave
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from deepcontrast_bmz.errors import InputError
from deepcontrast_bmz.image import replace_whole
from deepcontrast_bmz.model.loop import Loop, crop
from deepcontrast_bmz.progress import TrainingProgress
from deepcontrast_bmz.train.begin import Start
from deepcontrast_bmz.train.pairs import Pair, PairDataset

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from deepcontrast_bmz.settings import Recipe
    from deepcontrast_bmz.train.distributed import Spread
    from deepcontrast_bmz.train.raw_planes import RawPlane

logger = logging.getLogger(__name__)

TRAINING, VALIDATION = 0, 1
"""Streams of random numbers."""


class Training(pl.LightningModule):
    """The loop under training, with its data.

    Parameters
    ----------
    recipe : Recipe
    spread : Spread
        Over how many processes and pieces.
    out : Path
        Run folder; previews and history are written there.
    training, validation : sequence of RawPlane
        Planes, or stacks, to learn from and to judge by.
    report : callable or None
        Called after every step.
    start : Start, optional
        Where training begins; at drawn weights, if left out.
    """

    def __init__(
        self,
        recipe: Recipe,
        spread: Spread,
        out: Path,
        training: Sequence[RawPlane],
        validation: Sequence[RawPlane],
        report: Callable[[TrainingProgress], None] | None,
        start: Start | None = None,
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.spread = spread
        self.out = out
        self.start = start if start is not None else Start()
        self.loop = self._new_loop()
        if self.start.weights:
            self.loop.load_state_dict(self.start.weights)
        self.planes = [*training, *validation]
        settings = recipe.training
        self.pairs = PairDataset(
            training,
            recipe,
            radius=self.loop.radius,
            planes=self.loop.radii[0] if self.loop.dims == 3 else 0,
            length=(self.start.steps + settings.steps) * settings.batch,
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
        self.history: list[dict[str, float]] = list(self.start.history)
        # What is known to be good stays, until something is better.
        self.best: dict[str, Tensor] = dict(self.start.weights) if self.start.scores else {}
        self.best_scores: dict[str, float] = dict(self.start.scores)
        self.seconds_before = self.start.seconds
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
        last = min(first + settings.steps_per_epoch, settings.steps)
        # Further steps see further patches.
        steps = range(self.start.steps + first, self.start.steps + last)
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
            raise InputError(self._diverged())
        self.recent = [*self.recent[-49:], float(loss.detach())]
        return loss

    def _diverged(self) -> str:
        return (
            f"training diverged at step {self.global_step}: "
            f"lower training.learning_rate (now {self.recipe.training.learning_rate:g})"
        )

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Tell the caller where the run stands."""
        whole = (batch_idx + 1) % self.spread.accumulate == 0
        if self.report is None or not whole or not self.trainer.is_global_zero:
            return
        each = (time.monotonic() - self.begun_at) / max(self.global_step - self.first_step, 1)
        done = self.start.steps + self.global_step
        steps = self.start.steps + self.recipe.training.steps
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
        # In units of `scale`: two or more where there is structure. Flat patches count as one.
        span = (raw.amax(dim=inner) - raw.amin(dim=inner)).clamp_min(1.0)
        before = ((degraded - batch["raw"]) / batch["scale"]).square().mean(dim=inner)
        after = (restored - raw).square().mean(dim=inner)
        for loss, was, now in zip(
            (restored - raw).abs().mean(dim=inner),
            _to_decibel(span**2 / before),
            _to_decibel(span**2 / after),
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
            span = high - low if high > low else 1.0
            grey = [(image.float().cpu().numpy() - low) / span for image in images]
            rows.append(np.concatenate(grey, axis=1))
        folder = self.out / "previews"
        folder.mkdir(exist_ok=True)
        with replace_whole(folder / f"epoch_{self._epoch():04d}.png") as path:
            picture = np.clip(np.concatenate(rows), 0, 1)
            imsave(str(path), picture, cmap="gray", vmin=0, vmax=1, format="png")

    def _epoch(self) -> int:
        """Return the number of the epoch, from 1 on; those before this start count."""
        if self.trainer.sanity_checking:
            return 0
        before = int(self.start.history[-1]["epoch"]) if self.start.history else 0
        return before + self.current_epoch + 1

    def on_validation_epoch_end(self) -> None:
        """Keep the scores, and the weights if they are the best so far."""
        loss, degraded, restored = (float(v) for v in np.mean(self._scores, axis=0))
        scores = {"loss": loss, "psnr_degraded": degraded, "psnr_restored": restored}
        if not np.isfinite([*scores.values()]).all():
            # Every process has the same weights and held-out patches, so that all of them stop.
            raise InputError(self._diverged())
        recent = float(np.mean(self.recent)) if self.recent else math.nan
        if self.spread.processes > 1:
            own = torch.tensor(recent, device=self.device)
            recent = float(cast("Tensor", self.trainer.strategy.reduce(own, reduce_op="mean")))
        self.history.append(
            {
                "epoch": self._epoch(),
                "step": self.start.steps + self.global_step,
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
        logger.info("epoch %d: %s", self._epoch(), scores)

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


def _to_decibel(ratio: Tensor) -> Tensor:
    # No more than float32 can tell: a patch without noise would be infinitely well restored.
    return 10 * torch.log10(ratio.clamp(1e-12, 1e12))


def _newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that can be read; a killed run may leave a broken one."""
    for path in sorted(folder.glob("epoch-*.ckpt"), reverse=True):
        try:
            torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch names no common base class for a broken file
            logger.warning("checkpoint %s cannot be read (%s); taking the one before", path, error)
            continue
        return path
    return None


def fit(module: Training, out: Path, placement: dict[str, Any], *, resume: bool) -> None:
    """Run Lightning's trainer, quietly, until the steps of the recipe are done.

    Parameters
    ----------
    module : Training
        Holds the best weights and their scores afterwards.
    out : Path
        Run folder; a checkpoint is written there after every epoch.
    placement : dict
        What `trainer_arguments` returned.
    resume : bool
        Go on from the newest checkpoint that can be read, if there is one.

    Raises
    ------
    InputError
        If the loss stops being a number.
    """
    settings = module.recipe.training
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    folder = out / "checkpoints" / module.start.checkpoints
    checkpoints = ModelCheckpoint(
        dirpath=folder,
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
        judge = bool(module.start.weights) and not module.start.scores
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
            # The weights of a model are judged first, before they change.
            num_sanity_val_steps=-1 if judge else 0,
        )
        checkpoint = _newest_checkpoint(folder) if resume else None
        try:
            trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
        except SystemExit as error:
            # Lightning turns Ctrl-C into an exit of its own.
            raise KeyboardInterrupt from error
