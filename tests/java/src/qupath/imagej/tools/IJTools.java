package qupath.imagej.tools;

import ij.ImagePlus;
import ij.ImageStack;
import ij.measure.Calibration;
import ij.process.FloatProcessor;
import ij.process.ShortProcessor;
import java.awt.image.BufferedImage;
import qupath.lib.images.servers.ImageServer;
import qupath.lib.regions.RegionRequest;

/** Stands in for QuPath's class. */
public final class IJTools {
    private IJTools() {}

    public static ImagePlus extractHyperstack(
            ImageServer<BufferedImage> server, RegionRequest request,
            int zStart, int zEnd, int tStart, int tEnd) {
        if (!request.path.equals(server.getPath()) || zEnd != zStart + 1 || tEnd != tStart + 1) {
            throw new IllegalArgumentException("one plane of this very image is expected");
        }
        ImageStack stack = new ImageStack(request.width, request.height);
        for (int c = 0; c < server.nChannels(); c++) {
            FloatProcessor plane = new FloatProcessor(request.width, request.height);
            for (int y = 0; y < request.height; y++) {
                for (int x = 0; x < request.width; x++) {
                    plane.setf(x, y,
                            server.value(c, request.x + x, request.y + y, zStart, tStart));
                }
            }
            boolean raw = server.getPath().equals("raw");
            stack.addSlice(raw ? (ShortProcessor) plane.convertToShort(false) : plane);
        }
        ImagePlus image = new ImagePlus("slide.svs", stack);
        image.setDimensions(server.nChannels(), 1, 1);
        Calibration calibration = new Calibration();
        calibration.pixelWidth = server.getPixelCalibration().getPixelWidthMicrons();
        calibration.pixelHeight = calibration.pixelWidth;
        calibration.setUnit("um");
        calibration.xOrigin = -request.x;
        calibration.yOrigin = -request.y;
        image.setCalibration(calibration);
        return image;
    }
}
