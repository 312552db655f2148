"""A slider for the dial, with the automatic dial and its interval marked below."""

# napari and Qt are an extra: where they are missing, their types are unknown.
# pyright: reportMissingImports=false, reportUntypedBaseClass=false

from __future__ import annotations

__all__ = ["DialSlider"]

import math
from typing import Any

from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QPainter, QPalette, QPolygonF
from qtpy.QtWidgets import (
    QDoubleSpinBox,
    QSizePolicy,
    QSlider,
    QVBoxLayout,
    QWidget,
)

_STEPS = 100
"""Positions of the slider to an optical depth of one."""
_MARK = QColor("#0f9d8f")
_BAND = QColor(15, 157, 143, 110)
_NUMBERS = 11
"""Where the row of numbers begins, in pixels from the top."""
_AUTOMATIC = "automatic"


class _Marks(QWidget):
    """Numbers below the slider, a triangle at the automatic dial, a band for its interval."""

    def __init__(self, slider: Any) -> None:
        super().__init__()
        self.slider = slider
        self.largest = 1.0
        self.automatic: float | None = None
        self.interval: tuple[float, float] | None = None
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> Any:  # noqa: N802 - Qt calls it so
        return QSize(160, _NUMBERS + 2 * self.fontMetrics().height() + 2)

    def place(self, dial: float) -> float:
        """Return where a dial lies, in pixels from the left."""
        knob = 12
        return knob / 2 + dial / self.largest * (self.width() - knob)

    def paintEvent(self, event: Any) -> None:  # noqa: N802, ARG002 - Qt calls it so
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        line = self.fontMetrics().height()
        if self.interval is not None:
            low, high = (self.place(min(max(d, 0.0), self.largest)) for d in self.interval)
            painter.fillRect(QRectF(low, 2, max(high - low, 1.0), 6), _BAND)
        painter.setPen(self.palette().color(QPalette.ColorRole.WindowText))
        for whole in range(math.floor(self.largest) + 1):
            x = self.place(whole)
            painter.drawLine(QPointF(x, 0), QPointF(x, 4))
            where = QRectF(x - 20, _NUMBERS, 40, line)
            painter.drawText(where, Qt.AlignmentFlag.AlignCenter, str(whole))
        if self.automatic is not None:
            x = self.place(self.automatic)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(_MARK)
            painter.drawPolygon(QPolygonF([QPointF(x, 0), QPointF(x - 5, 9), QPointF(x + 5, 9)]))
            painter.setPen(_MARK)
            wide = self.fontMetrics().horizontalAdvance(_AUTOMATIC) + 4
            left = min(max(x - wide / 2, 0), self.width() - wide)
            where = QRectF(left, _NUMBERS + line, wide, line)
            painter.drawText(where, Qt.AlignmentFlag.AlignCenter, _AUTOMATIC)
        painter.end()


class DialSlider(QWidget):
    """Slider and number of one dial.

    Attributes
    ----------
    moved : signal of float
        The user moved it.
    """

    moved = Signal(float)

    def __init__(self) -> None:
        super().__init__()
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setSingleStep(5)
        self.slider.setPageStep(25)
        self.slider.setAccessibleName("Dial, optical depth removed")
        self.number = QDoubleSpinBox()
        self.number.setDecimals(2)
        self.number.setSingleStep(0.05)
        self.number.setAccessibleName("Dial")
        self.marks = _Marks(self.slider)
        column = QVBoxLayout(self)
        column.setSpacing(0)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.slider)
        column.addWidget(self.marks)
        self.slider.valueChanged.connect(self._slid)
        self.number.valueChanged.connect(self._typed)
        self.set_range(4.0)

    @property
    def dial(self) -> float:
        """Optical depth that is removed."""
        return float(self.number.value())

    def set_range(self, largest: float) -> None:
        """Set where it ends."""
        self.marks.largest = largest
        for part, most in ((self.slider, round(largest * _STEPS)), (self.number, largest)):
            part.blockSignals(True)
            part.setRange(0, most)
            part.blockSignals(False)
        self.marks.update()

    def show_dial(self, dial: float) -> None:
        """Move it without telling anybody."""
        for part, value in ((self.slider, round(dial * _STEPS)), (self.number, dial)):
            part.blockSignals(True)
            part.setValue(value)
            part.blockSignals(False)

    def mark(self, automatic: float | None, interval: tuple[float, float] | None = None) -> None:
        """Mark the automatic dial and its interval."""
        self.marks.automatic, self.marks.interval = automatic, interval
        self.marks.update()

    def _slid(self, position: int) -> None:
        self.show_dial(position / _STEPS)
        self.moved.emit(position / _STEPS)

    def _typed(self, value: float) -> None:
        self.show_dial(value)
        self.moved.emit(value)
