package qupath.lib.scripting;

import java.awt.image.BufferedImage;
import qupath.lib.images.ImageData;
import qupath.lib.roi.interfaces.ROI;

/** Stands in for QuPath's class. */
public final class QP {
    public static ImageData<BufferedImage> imageData;
    public static ROI roi;

    private QP() {}

    public static ImageData<BufferedImage> getCurrentImageData() {
        return imageData;
    }

    public static ROI getSelectedROI() {
        return roi;
    }
}
