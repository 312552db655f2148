package qupath.lib.scripting;

import java.awt.image.BufferedImage;
import qupath.lib.images.ImageData;
import qupath.lib.roi.interfaces.ROI;
import scene.Scene;

/** Stands in for QuPath's class. */
public class QP {
    private QP() {}

    public static ImageData<BufferedImage> getCurrentImageData() {
        return Scene.imageData;
    }

    public static ROI getSelectedROI() {
        return Scene.selected;
    }
}
