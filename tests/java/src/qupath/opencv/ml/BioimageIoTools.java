package qupath.opencv.ml;

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
        Object iterations = ((java.util.Map<?, ?>) model.getConfig().get("dcbmz")).get("iterations");
        return new PatchClassifierParams(((Double) iterations).intValue(), 0, 0);
    }
}
