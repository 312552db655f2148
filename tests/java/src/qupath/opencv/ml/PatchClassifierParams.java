package qupath.opencv.ml;

import java.util.List;
import qupath.lib.classifiers.pixel.PixelClassifier;
import qupath.lib.images.servers.PixelCalibration;

/** Stands in for QuPath's class. */
public final class PatchClassifierParams {
    final List<?> names;
    final int channel;
    final double downsample;

    PatchClassifierParams(List<?> names, int channel, double downsample) {
        this.names = names;
        this.channel = channel;
        this.downsample = downsample;
    }

    public static PixelClassifier buildPixelClassifier(PatchClassifierParams params) {
        if (params.downsample != 1) {
            throw new IllegalArgumentException("the model runs at full resolution");
        }
        return new PixelClassifier(params.names, params.channel);
    }

    public static Builder builder(PatchClassifierParams params) {
        return new Builder(params);
    }

    /** Stands in for QuPath's class. */
    public static final class Builder {
        private PatchClassifierParams params;

        private Builder(PatchClassifierParams params) {
            this.params = params;
        }

        public Builder inputChannels(int... channels) {
            params = new PatchClassifierParams(params.names, channels[0], params.downsample);
            return this;
        }

        public Builder inputChannels(String... channels) {
            throw new UnsupportedOperationException();
        }

        public Builder inputResolution(PixelCalibration calibration, double downsample) {
            params = new PatchClassifierParams(params.names, params.channel, downsample);
            return this;
        }

        public PatchClassifierParams build() {
            return params;
        }
    }
}
