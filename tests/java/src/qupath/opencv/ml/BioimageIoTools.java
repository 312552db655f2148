package qupath.opencv.ml;

import java.util.List;
import java.util.Map;
import qupath.bioimageio.spec.Model;
import qupath.opencv.ops.ImageOp;

/** Stands in for QuPath's class. */
public final class BioimageIoTools {
    private BioimageIoTools() {}

    public static PatchClassifierParams buildPatchClassifierParams(
            Model model, ImageOp... inputOps) {
        return buildPatchClassifierParams(model, -1, -1, inputOps);
    }

    public static PatchClassifierParams buildPatchClassifierParams(
            Model model, int tileWidth, int tileHeight, ImageOp... inputOps) {
        Object channels = ((Map<?, ?>) model.getConfig().get("dcbmz")).get("channels");
        return new PatchClassifierParams((List<?>) channels, 0, 0);
    }
}
