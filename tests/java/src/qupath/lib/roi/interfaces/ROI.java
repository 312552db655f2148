package qupath.lib.roi.interfaces;

/** Stands in for QuPath's interface. */
public interface ROI {
    double getBoundsX();

    double getBoundsY();

    double getBoundsWidth();

    double getBoundsHeight();

    int getZ();

    int getT();
}
