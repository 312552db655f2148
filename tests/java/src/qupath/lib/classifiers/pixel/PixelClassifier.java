package qupath.lib.classifiers.pixel;

import java.awt.image.BufferedImage;
import java.io.IOException;
import qupath.lib.images.ImageData;
import qupath.lib.regions.RegionRequest;

/** Stands in for QuPath's interface. */
public interface PixelClassifier {
    BufferedImage applyClassification(ImageData<BufferedImage> imageData, RegionRequest request)
            throws IOException;
}
