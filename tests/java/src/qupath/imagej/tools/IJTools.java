package qupath.imagej.tools;

import ij.ImagePlus;
import ij.measure.Calibration;
import java.awt.image.BufferedImage;
import qupath.lib.images.servers.ImageServer;
import qupath.lib.regions.RegionRequest;

/** Stands in for QuPath's class. */
public final class IJTools {
    private IJTools() {}

    public static void calibrateImagePlus(
            ImagePlus image, RegionRequest request, ImageServer<BufferedImage> server) {
        Calibration calibration = new Calibration();
        calibration.pixelWidth = server.getPixelCalibration().getPixelWidthMicrons();
        calibration.pixelHeight = server.getPixelCalibration().getPixelHeightMicrons();
        calibration.pixelDepth = Double.NaN;
        calibration.setUnit("um");
        calibration.xOrigin = -request.getX() / request.getDownsample();
        calibration.yOrigin = -request.getY() / request.getDownsample();
        image.setCalibration(calibration);
        image.setProperty("Info", "location=" + server.getPath());
    }
}
