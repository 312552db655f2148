package qupath.lib.images.servers;

import java.io.IOException;
import qupath.lib.regions.RegionRequest;

/** Stands in for QuPath's interface. */
public interface ImageServer<T> {
    String getPath();

    int getWidth();

    int getHeight();

    int nChannels();

    boolean isRGB();

    PixelCalibration getPixelCalibration();

    T readRegion(RegionRequest request) throws IOException;
}
