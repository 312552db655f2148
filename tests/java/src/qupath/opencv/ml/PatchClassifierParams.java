package qupath.opencv.ml;

import java.awt.image.BufferedImage;
import qupath.lib.classifiers.pixel.PixelClassifier;
import qupath.lib.images.servers.PixelCalibration;
import qupath.lib.regions.Padding;
import qupath.opencv.dnn.DnnModel;
import scene.Network;

/** Stands in for QuPath's class. */
public class PatchClassifierParams {
    private int channel = -1;
    private PixelCalibration resolution;
    private int patchWidth;
    private int patchHeight;
    private int halo = -1;
    private DnnModel model;
    private String[] names = {};

    private PatchClassifierParams() {}

    public int getPatchWidth() {
        return patchWidth;
    }

    public int getPatchHeight() {
        return patchHeight;
    }

    public static Builder builder() {
        return new Builder();
    }

    public static PixelClassifier buildPixelClassifier(PatchClassifierParams params) {
        if (params.resolution == null || params.halo != 0 || params.names.length == 0) {
            throw new IllegalArgumentException("resolution, no halo, and names are expected");
        }
        return (imageData, request) -> {
            int width = request.getWidth();
            int height = request.getHeight();
            if (width != params.patchWidth || height != params.patchHeight) {
                throw new IllegalArgumentException("QuPath would cut or fill up this region");
            }
            BufferedImage raw = imageData.getServer().readRegion(request);
            float[] plane =
                    raw.getRaster()
                            .getSamples(0, 0, width, height, params.channel, (float[]) null);
            return ((Network) params.model).run(plane, width, height);
        };
    }

    /** Stands in for QuPath's class. */
    public static class Builder {
        private final PatchClassifierParams params = new PatchClassifierParams();

        private Builder() {}

        public Builder inputChannels(int... channels) {
            params.channel = channels[0];
            return this;
        }

        public Builder inputChannels(String... channels) {
            throw new UnsupportedOperationException();
        }

        public Builder inputResolution(PixelCalibration calibration, double downsample) {
            if (downsample != 1) {
                throw new IllegalArgumentException("full resolution is expected");
            }
            params.resolution = calibration;
            return this;
        }

        public Builder patchSize(int width, int height) {
            params.patchWidth = width;
            params.patchHeight = height;
            return this;
        }

        public Builder halo(int padding) {
            params.halo = padding;
            return this;
        }

        public Builder prediction(DnnModel model, Padding padding, String... outputs) {
            params.model = model;
            return this;
        }

        public Builder outputClassNames(String... names) {
            params.names = names;
            return this;
        }

        public PatchClassifierParams build() {
            return params;
        }
    }
}
