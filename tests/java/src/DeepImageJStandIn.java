import ij.IJ;
import ij.ImagePlus;
import ij.ImageStack;
import ij.Macro;
import ij.plugin.PlugIn;
import ij.process.FloatProcessor;
import java.io.File;

/**
 * Stands in for deepImageJ 3.1 with what tests/api/deepimagej.txt lists, and no network: iteration
 * k is {@code raw * (1 + k / 4) + k}.
 *
 * <p>The number of iterations is what the name of the model's folder ends with. A folder called
 * silent gives no result, one called broken throws, and one called halfway throws after it has
 * saved a part.
 */
public final class DeepImageJStandIn implements PlugIn {
    @Override
    public void run(String unused) {
        String options = Macro.getOptions();
        String model = Macro.getValue(options, "model_path", null);
        String input = Macro.getValue(options, "input_path", null);
        String output = Macro.getValue(options, "output_folder", null);
        String name = new File(model).getName();
        if (!new File(model, "rdf.yaml").isFile() || !new File(output).isDirectory()) {
            throw new IllegalArgumentException(options);
        }
        if (name.startsWith("silent")) {
            return;
        }
        if (name.startsWith("halfway")) {
            IJ.saveAsTiff(IJ.openImage(input), output + File.separator + "a");
            IJ.saveAsTiff(IJ.openImage(input), output + File.separator + "b");
        }
        if (name.startsWith("broken") || name.startsWith("halfway")) {
            throw new RuntimeException("io.bioimage.modelrunner.exceptions.LoadEngineException");
        }
        int count = Integer.parseInt(model.substring(model.lastIndexOf('_') + 1));
        ImagePlus imp = IJ.openImage(input);
        if (imp.getBitDepth() != 32 || imp.getNChannels() != 1) {
            throw new IllegalArgumentException("one channel in 32 bits is expected");
        }
        boolean volume = name.startsWith("volume");
        if (!volume && imp.getNSlices() > 1) {
            throw new IllegalArgumentException("a 2-D model takes planes as frames");
        }
        System.out.println("planes " + imp.getNSlices() + " " + imp.getNFrames());
        ImageStack stack = new ImageStack(imp.getWidth(), imp.getHeight());
        for (int plane = 1; plane <= imp.getStackSize(); plane++) {
            float[] raw = (float[]) imp.getStack().getProcessor(plane).getPixels();
            for (int k = 1; k <= count; k++) {
                float[] enhanced = new float[raw.length];
                for (int i = 0; i < raw.length; i++) {
                    enhanced[i] = raw[i] * (1 + k / 4f) + k;
                }
                stack.addSlice(new FloatProcessor(imp.getWidth(), imp.getHeight(), enhanced));
            }
        }
        ImagePlus result = new ImagePlus(imp.getShortTitle() + "_enhanced", stack);
        result.setDimensions(count, imp.getNSlices(), imp.getNFrames());
        result.setOpenAsHyperStack(true);
        IJ.saveAsTiff(result, output + File.separator + result.getTitle());
    }
}
